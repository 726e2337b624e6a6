"use strict";

// One model: its plane, the point on it, and the images beside it.

const cards = [];
const className = (label) => (page.named ? page.names[label] : `${page.classes}\u00a0${page.names[label]}`);
const nearestImage = (i) => (page.classes ? className(page.labelsOf[i]) : `number\u00a0${i + 1}`);

class Card extends Plane {
  constructor(models) {
    const section = $("template").content.cloneNode(true).firstElementChild;
    super($(".plane", section));
    Object.assign(this, { section, held: false, near: 0, digit: $(".digit", section), pointers: new Map() });
    for (const canvas of section.querySelectorAll("figure canvas")) [canvas.height, canvas.width] = page.shape;
    this.models = models.map((model) => ({
      ...model,
      xs: array(model.codes),
      spreads: model.spread && array(model.spread),
      decode: decoder(model.decoder, model.likelihood),
      steps: model.replay && array(model.replay.points),
      encode: model.encoder.length ? encoder(model.encoder, model.center.length) : null,
    }));
    const first = this.models[0], beta = $(".beta", section), slider = $("input", beta);
    this.models.sort((a, b) => a.beta - b.beta);
    // One frame for all betas, so that the codes are seen to shrink.
    this.whole = [0, 1].map((i) => [0, 1].map((side) => Math[side ? "max" : "min"](...models.map((m) => m.frame[i][side]))));
    this.view = this.frame = this.whole;
    beta.hidden = models.length === 1;
    this.start = this.models.indexOf(first);
    Object.assign(slider, { max: models.length - 1, value: this.start });
    slider.addEventListener("input", () => (this.select(+slider.value), changed()));
    $("main").append(section);
    this.select(+slider.value);
    listen(this);
  }

  select(index) {
    const model = this.models[index], sliders = $(".sliders", this.section), beta = $(".beta", this.section);
    const dim = model.center.length, count = model.xs.length / dim;
    Object.assign(this, { model, line: dim === 1, sheet: null });
    this.codes = Array.from({ length: count }, (_, i) => model.xs.subarray(i * dim, (i + 1) * dim));
    this.final = new Float64Array(2 * count);
    this.codes.forEach((code, i) => this.final.set(this.placeOf(code, i), 2 * i));
    this.arrange();
    $("h2", this.section).textContent = model.label;
    this.plane.setAttribute("aria-label", `latent plane of ${model.label}`);
    $("output", beta).textContent = number(model.beta ?? 0).replace(/\.?0+$/, "");
    Object.assign($("input", beta), { value: index, ariaValueText: model.label });
    sliders.replaceChildren(...model.sliders.map((i) => {
      const [min, max] = model.ranges[i], label = element("label", { textContent: `z${i + 1}` });
      const input = element("input", { type: "range", step: "any", min, max });
      input.dataset.dimension = i;
      input.addEventListener("input", () => this.lead(this.z.with(i, +input.value), true));
      label.append(input, element("output"));
      return label;
    }));
    this.tile();
    this.repaint();
    // Another beta shows the same test image, unless the user holds a point.
    this.place(this.held ? this.z : Array.from(this.codes[this.near]));
    this.shown = -1;
  }

  // The dots are those of the trained model, or of the epoch that the replay shows.
  arrange() {
    const { steps, replay } = this.model;
    this.places = this.final;
    if (state.mode === "replay" && steps) {
      const size = steps.length / (replay.epochs + 1), at = Math.min(state.epoch, replay.epochs) * size;
      this.places = steps.subarray(at, at + size);
      if (this.line) this.places = this.places.map((x, i) => (i % 2 ? this.final[i] : x));
    }
    const before = this.frame; // the replay's has room for the codes of all epochs
    this.frame = state.mode === "replay" && steps ? replay.frame : this.whole;
    if (this.view === before) this.view = this.frame;
    this.repaint();
  }

  project(z) {
    return this.model.axes.map((axis) => dot(axis, z) - dot(axis, this.model.center));
  }

  // Where a test image's dot is. One dimension is spread out by class, in steps of the golden ratio, which fill a strip evenly.
  placeOf(code, i) {
    return this.line ? [code[0], page.labelsOf[i] + 0.7 * (((i * 0.618034) % 1) - 0.5)] : this.project(code);
  }

  spotOf(i) {
    return this.at([this.places[2 * i], this.places[2 * i + 1]]);
  }

  // The point at (x, y) of the plane through ``from``: what z is across the plane, more than two dimensions have that, stays.
  lift(x, y, from = this.z) {
    const [a, b] = this.project(from), [first, second] = this.model.axes;
    return from.map((value, i) => value + (x - a) * first[i] + (y - b) * second[i]);
  }

  // Of the test images that the page holds; the others are dots alone.
  nearest(z = this.z) {
    const { xs } = this.model, dim = z.length;
    let best = this.near, least = Infinity;
    for (let i = 0, at = 0; i < page.count; i++, at += dim) {
      if (state.only >= 0 && page.labelsOf[i] !== state.only) continue;
      let distance = 0;
      for (let k = 0; k < dim; k++) distance += (xs[at + k] - z[k]) ** 2;
      if (distance < least) [best, least] = [i, distance];
    }
    return best;
  }

  // Move this card's point, and the other cards' after it.
  lead(z, hold = this.held) {
    this.held = hold;
    state.lead = cards.indexOf(this);
    this.place(z);
    for (const other of cards) {
      if (other === this || state.link === "nothing") continue;
      other.held = false;
      if (state.link === "image") other.place(Array.from(other.codes[this.near]), this.near);
      else other.place(other.z.map((value, i) => z[i] ?? value));
    }
    changed();
  }

  // The images follow in the next frame, however often the pointer moves before it.
  place(z, near) {
    Object.assign(this, { z, near: near ?? this.nearest(z), moved: true });
    schedule();
  }

  refresh(until) {
    if (this.size !== this.plane.clientWidth) this.size = this.plane.clientWidth, this.stale = true, this.tile();
    this.work(until);
    const drawn = this.moved, painted = this.stale && this.inner > 0; // a hidden page has no size
    if (painted) this.paint();
    if (drawn) this.decodePoint();
    if ((drawn || painted) && this.inner > 0) this.mark();
  }

  decodePoint() {
    const { model, z, near, section } = this, set = (selector, words) => ($(selector, section).textContent = words);
    this.moved = false;
    this.pixels = model.decode(z);
    show(this.digit, this.pixels);
    const shown = model.sliders.length ? this.project(z) : z;
    set(".point", `(${shown.map((x) => number(x)).join(", ")})`);
    set(".held", this.held ? "held" : "");
    for (const input of section.querySelectorAll(".sliders input")) {
      input.value = z[input.dataset.dimension];
      input.nextSibling.textContent = number(z[input.dataset.dimension]);
    }
    const own = MODES[state.mode].source?.(this), key = own ? own.key : near;
    if (this.shown === key) return;
    this.shown = key;
    this.source = own ? own.pixels : testImage(near);
    this.recon = model.decode(own ? own.code : Array.from(this.codes[near]));
    show($(".source", section), this.source);
    show($(".recon", section), this.recon);
    set("small", own ? own.words : `nearest test image: ${nearestImage(near)}`);
    MODES[state.mode].follow?.(this);
  }

  redraw() {
    Object.assign(this, { shown: -1, moved: true });
    this.repaint();
  }

  mark() {
    const draw = this.plane.getContext("2d"), ratio = window.devicePixelRatio, end = this.size - MARGIN, { line } = this;
    draw.setTransform(1, 0, 0, 1, 0, 0);
    draw.clearRect(0, 0, this.plane.width, this.plane.height);
    draw.drawImage(this.base, 0, 0);
    draw.scale(ratio, ratio);
    draw.save();
    draw.beginPath();
    draw.rect(MARGIN, EDGE, this.inner, this.inner);
    draw.clip();
    MODES[state.mode].mark?.(this, draw);
    draw.restore();
    if (MODES[state.mode].still) return;
    const clip = (t, low, high) => Math.min(Math.max(t, low), high);
    const [px, py] = this.at(this.project(this.z)), x = clip(px, MARGIN, this.size - EDGE), y = clip(py, EDGE, end);
    this.stroke(draw, theme.pencil, 1, () => {
      draw.moveTo(x, EDGE), draw.lineTo(x, end);
      if (!line) draw.moveTo(MARGIN, y), draw.lineTo(this.size - EDGE, y);
    });
    const [nx, ny] = this.spotOf(this.near);
    if (state.mode !== "posterior" && nx > MARGIN && nx < this.size - EDGE && ny > EDGE && ny < end) this.ring(draw, nx, ny, 9, 1.5);
    if (line) return;
    this.ring(draw, x, y, 5, 2.5);
    if (this.held) draw.fillStyle = theme.ink, draw.fill();
  }

  stroke(draw, style, width, path) {
    Object.assign(draw, { strokeStyle: style, lineWidth: width });
    draw.beginPath();
    path();
    draw.stroke();
  }

  ring(draw, x, y, radius, width, style = theme.ink) {
    for (const [color, wide] of [[theme.paper, width + 2.5], [style, width]]) {
      this.stroke(draw, color, wide, () => draw.arc(x, y, radius, 0, 2 * Math.PI));
    }
  }

  // The ellipse of two standard deviations around a code, as it appears on the plane; ``at`` places it on the canvas.
  ellipse(draw, code, spread, style = theme.ink, at = (point) => this.at(point)) {
    const [x, y] = this.project(code), [first, second] = this.model.axes;
    const sum = (a, b) => spread.reduce((total, s, i) => total + a[i] * b[i] * s * s, 0);
    const a = Math.sqrt(sum(first, first)), b = a && sum(first, second) / a, c = Math.sqrt(Math.max(sum(second, second) - b * b, 0));
    for (const [color, wide] of [[theme.paper, 4.5], [style, 2]]) {
      this.stroke(draw, color, wide, () => {
        for (let t = 0; t <= 48; t++) {
          const [cos, sin] = [2 * Math.cos((t * Math.PI) / 24), 2 * Math.sin((t * Math.PI) / 24)];
          draw.lineTo(...at([x + a * cos, y + b * cos + c * sin]));
        }
      });
    }
  }

  spreadOf(i) {
    const dim = this.z.length;
    return this.model.spreads?.subarray(i * dim, (i + 1) * dim);
  }

  // Images in a row of ``columns``, with half as many where there is little room. To point at one moves to its code.
  strip(tiles, columns, note) {
    const strip = $(".strip", this.section);
    strip.style.setProperty("--columns", columns);
    strip.style.setProperty("--narrow", columns / 2);
    while (strip.children.length > tiles.length) strip.lastChild.remove();
    tiles.forEach(({ pixels, words, code, real }, i) => {
      const canvas = strip.children[i] ?? strip.appendChild(element("canvas", { role: "img" }));
      if (canvas.height !== page.shape[0] || canvas.width !== page.shape[1]) [canvas.height, canvas.width] = page.shape;
      show(canvas, pixels);
      canvas.classList.toggle("real", Boolean(real));
      Object.assign(canvas, { ariaLabel: words, title: words, onpointerenter: code && (() => this.lead(code)) });
    });
    $(".note", this.section).textContent = note;
  }

  pointed(event) {
    return this.lift(...this.spot(event));
  }
}
