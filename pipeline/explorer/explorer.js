"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const INK = "#24292f", PENCIL = "#8b949e", MARGIN = 44, EDGE = 10;
const page = JSON.parse($("#data").textContent);
const cards = [], link = $("#link");
let bytes;

// Arrays lie in the blob as all first bytes, all second bytes ..., which compresses better.
function array([type, offset, length]) {
  const size = { float32: 4, float16: 2, uint8: 1 }[type], values = new Uint8Array(length * size);
  for (let k = 0; k < size; k++) for (let i = 0; i < length; i++) values[i * size + k] = bytes[offset + k * length + i];
  if (type === "float32") return new Float32Array(values.buffer);
  return type === "uint8" ? values : Float32Array.from(new Uint16Array(values.buffer), half);
}

function half(h) {
  const exponent = (h >> 10) & 31, fraction = (h & 1023) / 1024, sign = h >> 15 ? -1 : 1;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

// Weights lie input by input, so that an input a ReLU has silenced, about every second one, costs nothing.
function decoder(packed) {
  const layers = packed.map(([weight, bias]) => ({ weight: array(weight), bias: array(bias) }));
  for (const layer of layers) layer.sums = new Float64Array(layer.bias.length);
  const pixels = new Float32Array(layers.at(-1).bias.length);
  return (z) => {
    let x = z;
    for (const { weight, bias, sums } of layers) {
      sums.set(bias);
      for (let i = 0, at = 0; i < x.length; i++, at += sums.length) {
        const value = x === z ? x[i] : Math.max(x[i], 0);
        if (value !== 0) for (let k = 0; k < sums.length; k++) sums[k] += value * weight[at + k];
      }
      x = sums;
    }
    for (let k = 0; k < pixels.length; k++) pixels[k] = 1 / (1 + Math.exp(-x[k]));
    return pixels;
  };
}

function ticks([low, high]) {
  const rough = (high - low) / 7, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough), digits = Math.max(0, -Math.floor(Math.log10(step)));
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: count }, (_, i) => (Math.ceil(low / step) + i) * step).map((x) => [x, number(x + 0, digits)]);
}

class Card {
  constructor(models) {
    const section = $("template").content.cloneNode(true).firstElementChild;
    [this.plane, this.digit] = [$(".plane", section), $(".digit", section)];
    Object.assign(this, { section, base: element("canvas"), held: false, near: 0 });
    [this.digit.height, this.digit.width] = page.shape;
    this.models = models.map((model) => ({ ...model, xs: array(model.codes), decode: decoder(model.layers) }));
    const first = this.models[0];
    this.models.sort((a, b) => a.beta - b.beta);
    // One frame for all betas, so that the codes are seen to shrink.
    this.frame = [0, 1].map((i) => [0, 1].map((side) => Math[side ? "max" : "min"](...models.map((m) => m.frame[i][side]))));
    const beta = $(".beta", section), slider = $("input", beta);
    beta.hidden = models.length === 1;
    Object.assign(slider, { max: models.length - 1, value: this.models.indexOf(first) });
    slider.addEventListener("input", () => this.select(+slider.value));
    $("main").append(section);
    this.select(+slider.value);
    this.listen();
  }

  select(index) {
    const model = this.models[index], sliders = $(".sliders", this.section), beta = $(".beta", this.section);
    const dim = model.center.length, count = model.xs.length / dim;
    this.model = model;
    this.codes = Array.from({ length: count }, (_, i) => model.xs.subarray(i * dim, (i + 1) * dim));
    // One dimension is spread out by class, in steps of the golden ratio, which fill a strip evenly.
    this.points = this.codes.map((code, i) =>
      dim > 1 ? this.project(code) : [code[0], page.labelsOf[i] + 0.7 * (((i * 0.618034) % 1) - 0.5)]);
    $("h2", this.section).textContent = model.label;
    this.plane.setAttribute("aria-label", `latent plane of ${model.label}`);
    $("output", beta).textContent = number(model.beta ?? 0).replace(/\.?0+$/, "");
    $("input", beta).setAttribute("aria-valuetext", model.label);
    sliders.replaceChildren(...model.sliders.map((i) => {
      const [min, max] = model.ranges[i], label = element("label", { textContent: `z${i + 1}` });
      const input = element("input", { type: "range", step: "any", min, max });
      input.dataset.dimension = i;
      input.addEventListener("input", () => this.lead(this.z.with(i, +input.value), true));
      label.append(input, element("output"));
      return label;
    }));
    this.paint();
    // Another beta shows the same test image, unless the user holds a point.
    this.place(this.held ? this.z : Array.from(this.codes[this.near]));
  }

  project(z) {
    return this.model.axes.map((axis) => dot(axis, z) - dot(axis, this.model.center));
  }

  // Within the plane only: what z is across it, more than two dimensions have that, stays.
  shifted(x, y) {
    const [a, b] = this.project(this.z), [first, second] = this.model.axes;
    return this.z.map((value, i) => value + (x - a) * first[i] + (y - b) * second[i]);
  }

  nearest() {
    let best = 0, least = Infinity;
    this.codes.forEach((code, i) => {
      let distance = 0;
      for (let k = 0; k < code.length; k++) distance += (code[k] - this.z[k]) ** 2;
      if (distance < least) [best, least] = [i, distance];
    });
    return best;
  }

  // Move this card's point, and the other cards' after it.
  lead(z, hold = this.held) {
    this.held = hold;
    this.place(z);
    for (const other of cards) {
      if (other === this || link.value === "nothing") continue;
      other.held = false;
      if (link.value === "image") other.place(Array.from(other.codes[this.near]));
      else other.place(other.z.map((value, i) => z[i] ?? value));
    }
  }

  place(z) {
    this.z = z;
    this.near = this.nearest();
    this.pixels = this.model.decode(z);
    const image = new ImageData(...[...page.shape].reverse());
    this.pixels.forEach((p, i) => image.data.set([255 * (1 - p), 255 * (1 - p), 255 * (1 - p), 255], 4 * i));
    this.digit.getContext("2d").putImageData(image, 0, 0);
    const shown = this.model.sliders.length ? this.project(z) : z;
    $(".point", this.section).textContent = `(${shown.map((x) => number(x)).join(", ")})`;
    const nearest = page.classes ? `${page.classes}\u00a0${page.names[page.labelsOf[this.near]]}` : `number\u00a0${this.near + 1}`;
    $("small", this.section).textContent = `nearest test image: ${nearest}${this.held ? "; held" : ""}`;
    for (const input of this.section.querySelectorAll(".sliders input")) {
      input.value = z[input.dataset.dimension];
      input.nextSibling.textContent = number(z[input.dataset.dimension]);
    }
    this.mark();
  }

  at([x, y]) {
    const [[left, right], [bottom, top]] = this.frame, size = this.size - MARGIN - EDGE;
    return [MARGIN + ((x - left) / (right - left)) * size, EDGE + ((top - y) / (top - bottom)) * size];
  }

  pointed(event) {
    const [[left, right], [bottom, top]] = this.frame, size = this.size - MARGIN - EDGE;
    const box = this.plane.getBoundingClientRect(), clip = (t) => Math.min(Math.max(t, 0), 1);
    const [u, v] = [clip((event.clientX - box.x - MARGIN) / size), clip((event.clientY - box.y - EDGE) / size)];
    return this.shifted(left + u * (right - left), top - v * (top - bottom));
  }

  listen() {
    this.plane.addEventListener("pointermove", (event) => {
      if (!this.held || event.buttons) this.lead(this.pointed(event));
    });
    this.plane.addEventListener("pointerdown", (event) => {
      this.plane.setPointerCapture(event.pointerId);
      this.lead(this.pointed(event), event.pointerType === "mouse" && !this.held);
    });
    this.plane.addEventListener("keydown", (event) => {
      const [right, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key] ?? [];
      if (right === undefined && event.key !== "Home") return;
      event.preventDefault();
      const [x, y] = this.project(this.z), step = (event.shiftKey ? 0.1 : 0.01);
      const [width, height] = this.frame.map(([low, high]) => step * (high - low));
      this.lead(event.key === "Home" ? [...this.model.center] : this.shifted(x + right * width, y + up * height), true);
    });
    new ResizeObserver(() => (this.paint(), this.mark())).observe(this.plane);
  }

  // What stays while the point moves, drawn once.
  paint() {
    const { model, base } = this, ratio = window.devicePixelRatio;
    this.size = this.plane.clientWidth;
    for (const canvas of [base, this.plane]) canvas.width = canvas.height = Math.round(this.size * ratio);
    const draw = base.getContext("2d"), inner = this.size - MARGIN - EDGE;
    const text = (words, x, y, align, style = INK) => {
      Object.assign(draw, { textAlign: align, fillStyle: style });
      draw.fillText(words, x, y);
    };
    const halo = (words, x, y, align = "center") => {
      Object.assign(draw, { textAlign: align, lineWidth: 3.5, strokeStyle: "#fff", lineJoin: "round", fillStyle: INK });
      draw.strokeText(words, x, y);
      draw.fillText(words, x, y);
    };
    draw.scale(ratio, ratio);
    Object.assign(draw, { font: "12px system-ui, sans-serif", textBaseline: "middle" });
    const rows = page.names.map((name, i) => [i, name]);
    for (const [x, words] of ticks(this.frame[0])) text(words, this.at([x, 0])[0], this.size - MARGIN + 14, "center");
    for (const [y, words] of model.center.length > 1 ? ticks(this.frame[1]) : rows) text(words, MARGIN - 7, this.at([0, y])[1], "right");
    text(model.names[0], MARGIN + inner / 2, this.size - 8, "center");
    draw.save();
    draw.rotate(-Math.PI / 2);
    text(model.names[1], -EDGE - inner / 2, 8, "center");
    draw.restore();
    draw.save();
    draw.beginPath();
    draw.rect(MARGIN, EDGE, inner, inner);
    Object.assign(draw, { strokeStyle: "#d9dde2", lineWidth: 1 });
    draw.stroke();
    draw.clip();
    if (model.map && $("#holes input").checked) this.shade(draw, model.map);
    draw.globalAlpha = 0.75;
    this.points.forEach((point, i) => {
      draw.fillStyle = `rgb(${page.colors[page.labelsOf[i]]})`;
      draw.beginPath();
      draw.arc(...this.at(point), Math.max(1.5, this.size / 240), 0, 2 * Math.PI);
      draw.fill();
    });
    draw.globalAlpha = 1;
    if (model.prior && model.center.length === 2) {
      for (const radius of [1, 2, 3]) {
        const [x, y] = this.at([0, 0]), r = this.at([radius, 0])[0] - x;
        Object.assign(draw, { strokeStyle: PENCIL, lineWidth: 1 });
        draw.setLineDash([4, 4]);
        draw.beginPath();
        draw.arc(x, y, r, 0, 2 * Math.PI);
        draw.stroke();
        draw.setLineDash([]);
        halo(radius < 3 ? `${radius}σ` : "3σ of the prior", x + r * Math.SQRT1_2, y + r * Math.SQRT1_2);
      }
    }
    draw.font = "bold 15px system-ui, sans-serif";
    for (const [name, place] of model.marks) halo(name, ...this.at(place));
    draw.restore();
  }

  shade(draw, { values, shape: [height, width], frame: [[left, right], [bottom, top]] }) {
    const map = element("canvas", { width, height }), image = new ImageData(width, height);
    array(values).forEach((sure, i) => image.data.set([36, 41, 47, 0.65 * (255 - sure)], 4 * i));
    map.getContext("2d").putImageData(image, 0, 0);
    const [x, y] = this.at([left, top]), [x1, y1] = this.at([right, bottom]);
    draw.drawImage(map, x, y, x1 - x, y1 - y);
    draw.strokeRect(x, y, x1 - x, y1 - y); // the map ends here
  }

  mark() {
    const draw = this.plane.getContext("2d"), ratio = window.devicePixelRatio, end = this.size - MARGIN;
    draw.setTransform(1, 0, 0, 1, 0, 0);
    draw.clearRect(0, 0, this.plane.width, this.plane.height);
    draw.drawImage(this.base, 0, 0);
    draw.scale(ratio, ratio);
    const clip = (t, low, high) => Math.min(Math.max(t, low), high), line = this.z.length === 1;
    const [px, py] = this.at(this.project(this.z)), x = clip(px, MARGIN, this.size - EDGE), y = clip(py, EDGE, end);
    const stroke = (style, width, path) => {
      Object.assign(draw, { strokeStyle: style, lineWidth: width });
      draw.beginPath();
      path();
      draw.stroke();
    };
    stroke("rgb(36 41 47 / 45%)", 1, () => {
      draw.moveTo(x, EDGE), draw.lineTo(x, end);
      if (!line) draw.moveTo(MARGIN, y), draw.lineTo(this.size - EDGE, y);
    });
    const circle = (cx, cy, r) => () => draw.arc(cx, cy, r, 0, 2 * Math.PI);
    stroke("#fff", 4, circle(...this.at(this.points[this.near]), 9));
    stroke(INK, 1.5, circle(...this.at(this.points[this.near]), 9));
    if (line) return;
    stroke("#fff", 5, circle(x, y, 5));
    stroke(INK, 2.5, circle(x, y, 5));
    if (this.held) draw.fillStyle = INK, draw.fill();
  }
}

async function start() {
  const packed = Uint8Array.from(atob($("#blob").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  page.labelsOf = array(page.labels);
  $("#legend").append(...page.names.map((name, i) => {
    const entry = element("span", { textContent: name });
    entry.style.setProperty("--color", `rgb(${page.colors[i]})`);
    return entry;
  }));
  $("#legend").hidden = !page.classes;
  $("#legend").setAttribute("aria-label", `colors of the ${page.names.length} classes`);
  $("#precision").textContent = page.precision.includes("float16")
    ? `Weights in ${page.precision.join(" and ")}, so that all models fit in one file: a pixel's gray level may be off by one in 256.`
    : "Weights in float32: the pixels are the model's own.";
  for (const models of page.cards) cards.push(new Card(models));
  $("#holes").hidden = !page.cards.flat().some((model) => model.map);
  $("#holes").addEventListener("change", () => cards.forEach((card) => (card.paint(), card.mark())));
  $("#link").closest("label").hidden = cards.length < 2;
  document.body.dataset.ready = "true";
}

start();
