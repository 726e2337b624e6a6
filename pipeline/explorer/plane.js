"use strict";

// One latent plane on a canvas: its axes, the codes of the test images, and the part of it that is in view.

const MARGIN = 58, EDGE = 10, FONT = "system-ui, sans-serif", theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "pencil", "line", "paper", "accent"]) theme[name] = style.getPropertyValue(`--${name}`).trim();
  theme.dark = matchMedia("(prefers-color-scheme: dark)").matches;
}

// Intensities as they are, or those of ink as ink on paper, or as light on a dark page.
function picture(pixels) {
  const [height, width, channels] = page.shape, image = new ImageData(width, height), { data } = image;
  const [low, high] = !page.ink ? [0, 255] : theme.dark ? [24, 248] : [255, 0];
  for (let i = 0, at = 0; i < pixels.length; i += channels, at += 4) {
    for (let k = 0; k < 3; k++) data[at + k] = low + (high - low) * pixels[channels === 3 ? i + k : i];
    data[at + 3] = 255;
  }
  return image;
}

const cut = (name, most = 14) => (name.length > most ? `${name.slice(0, most - 1).trimEnd()}…` : name);
const show = (canvas, pixels) => canvas.getContext("2d").putImageData(picture(pixels), 0, 0);

function ticks([low, high]) {
  const rough = (high - low) / 7, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough), digits = Math.max(0, -Math.floor(Math.log10(step)));
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: count }, (_, i) => (Math.ceil(low / step) + i) * step).map((x) => [x, number(x + 0, digits)]);
}

class Plane {
  constructor(plane) {
    Object.assign(this, { plane, base: element("canvas"), size: 0, stale: true, sheet: null, job: null });
    new ResizeObserver(() => this.repaint()).observe(plane);
  }

  repaint() {
    this.stale = true;
    schedule();
  }

  get inner() {
    return this.size - MARGIN - EDGE;
  }

  at([x, y]) {
    const [[left, right], [bottom, top]] = this.view;
    return [MARGIN + ((x - left) / (right - left)) * this.inner, EDGE + ((top - y) / (top - bottom)) * this.inner];
  }

  // Where on the plane an event is, at its border if it is outside.
  spot(event) {
    const [[left, right], [bottom, top]] = this.view, box = this.plane.getBoundingClientRect();
    const clip = (t) => Math.min(Math.max(t, 0), 1);
    const [u, v] = [clip((event.clientX - box.x - MARGIN) / this.inner), clip((event.clientY - box.y - EDGE) / this.inner)];
    return [left + u * (right - left), top - v * (top - bottom)];
  }

  get scale() {
    return (this.frame[0][1] - this.frame[0][0]) / (this.view[0][1] - this.view[0][0]);
  }

  look(view) {
    this.view = view;
    this.tile();
    this.repaint();
  }

  zoom(factor, center = this.view.map(([low, high]) => (low + high) / 2)) {
    const to = Math.min(Math.max(this.scale * factor, 1 / 3), 200), by = to / this.scale;
    this.look(this.view.map((range, i) => (i && this.line ? range : range.map((end) => center[i] + (end - center[i]) / by))));
  }

  pan(right, down) {
    const [[x0, x1], [y0, y1]] = this.view, dx = (right / this.inner) * (x1 - x0);
    const dy = this.line ? 0 : (down / this.inner) * (y1 - y0);
    this.look([[x0 - dx, x1 - dx], [y0 + dy, y1 + dy]]);
  }

  text(draw, words, x, y, { align = "center", style = theme.ink, halo = false, most } = {}) {
    Object.assign(draw, { textAlign: align, fillStyle: style, lineWidth: 3.5, strokeStyle: theme.paper, lineJoin: "round" });
    if (halo) draw.strokeText(words, x, y);
    draw.fillText(words, x, y, most);
  }

  // What stays while the point moves, drawn once.
  paint() {
    const { model, base } = this, ratio = window.devicePixelRatio, size = Math.round(this.size * ratio);
    this.stale = false;
    for (const canvas of [base, this.plane]) if (canvas.width !== size) canvas.width = canvas.height = size;
    const draw = base.getContext("2d"), every = Math.ceil((15 * page.names.length) / this.inner);
    const rows = this.line ? page.names.map((name, i) => [i, cut(name)]).filter(([i]) => i % every === 0) : [];
    const inside = rows.some(([, name]) => name.length > 4); // beside the plane there is no room for them
    draw.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw.clearRect(0, 0, this.size, this.size);
    Object.assign(draw, { font: `12px ${FONT}`, textBaseline: "middle" });
    for (const [x, words] of ticks(this.view[0])) this.text(draw, words, this.at([x, 0])[0], this.size - MARGIN + 14);
    for (const [y, words] of inside ? [] : this.line ? rows : ticks(this.view[1])) {
      this.text(draw, words, MARGIN - 7, this.at([0, y])[1], { align: "right", most: MARGIN - 24 }); // beside the axis title
    }
    this.text(draw, model.names[0], MARGIN + this.inner / 2, this.size - MARGIN + 35);
    draw.save();
    draw.rotate(-Math.PI / 2);
    this.text(draw, model.names[1], -EDGE - this.inner / 2, 8);
    draw.restore();
    draw.save();
    draw.beginPath();
    draw.rect(MARGIN, EDGE, this.inner, this.inner);
    Object.assign(draw, { strokeStyle: theme.line, lineWidth: 1 });
    draw.stroke();
    draw.clip();
    const trained = !MODES[state.mode].still; // the decoder is not that of the replay's epochs
    if (state.tiles && this.sheet && trained) this.lay(draw, this.sheet.canvas, this.sheet.view, 0.8);
    if (state.holes && model.map && trained) this.shade(draw, model.map);
    this.dots(draw, ratio);
    if (inside) for (const [y, words] of rows) this.text(draw, words, MARGIN + 5, this.at([0, y])[1], { align: "left", halo: true });
    if ((model.prior || MODES[state.mode].prior) && model.center.length === 2) this.circles(draw);
    for (const [name, x, y] of this.marks()) this.text(draw, name, x, y, { halo: true });
    draw.restore();
  }

  lay(draw, image, [[left, right], [bottom, top]], alpha = 1) {
    const [x, y] = this.at([left, top]), [x1, y1] = this.at([right, bottom]);
    draw.globalAlpha = alpha;
    draw.drawImage(image, x, y, x1 - x, y1 - y);
    draw.globalAlpha = 1;
    return [x, y, x1 - x, y1 - y];
  }

  shade(draw, { values, shape: [height, width], frame }) {
    const map = element("canvas", { width, height }), image = new ImageData(width, height), tone = theme.dark ? 200 : 41;
    array(values).forEach((sure, i) => image.data.set([tone, tone, tone, 0.65 * (255 - sure)], 4 * i));
    map.getContext("2d").putImageData(image, 0, 0);
    draw.strokeRect(...this.lay(draw, map, frame)); // the map ends here
  }

  // Drawn in the images' own order, so that no class covers another. A dot is drawn once for each class and then copied.
  dots(draw, ratio) {
    const radius = Math.max(1.5, this.size / 240) * (state.tiles ? 0.8 : 1), size = Math.ceil(2 * radius * ratio) + 2;
    const copies = page.colors.map((color) => {
      const copy = element("canvas", { width: size, height: size }), pen = copy.getContext("2d");
      pen.fillStyle = `rgb(${color})`;
      pen.arc(size / 2, size / 2, radius * ratio, 0, 2 * Math.PI);
      pen.fill();
      return copy;
    });
    const side = size / ratio, low = MARGIN - side, high = this.size - EDGE + side;
    for (let i = 0; i < this.places.length / 2; i++) {
      const [x, y] = this.at([this.places[2 * i], this.places[2 * i + 1]]), label = page.labelsOf[i];
      if (x < low || x > high || y < 0 || y > high) continue;
      draw.globalAlpha = state.only >= 0 && label !== state.only ? 0.08 : state.tiles ? 0.55 : 0.75;
      draw.drawImage(copies[label], Math.round((x - side / 2) * ratio) / ratio, Math.round((y - side / 2) * ratio) / ratio, side, side);
    }
    draw.globalAlpha = 1;
  }

  circles(draw) {
    const [x, y] = this.at([0, 0]);
    for (const radius of [1, 2, 3]) {
      const [right, top] = this.at([radius, radius]), words = radius < 3 ? `${radius}σ` : this.model.prior ? "3σ of the prior" : "3σ of N(0, I)";
      Object.assign(draw, { strokeStyle: theme.pencil, lineWidth: 1 });
      draw.setLineDash([4, 4]);
      draw.beginPath();
      draw.ellipse(x, y, right - x, y - top, 0, 0, 2 * Math.PI);
      draw.stroke();
      draw.setLineDash([]);
      if (radius < 3 && right - x < 25 * radius) continue; // no room
      const half = draw.measureText(words).width / 2, most = this.size - EDGE - half - 3;
      const beside = Math.max(Math.min(x + (right - x) * Math.SQRT1_2, most), MARGIN + half + 3);
      this.text(draw, words, beside, y + (y - top) * Math.SQRT1_2, { halo: true });
    }
  }

  // The name of each class, and where to write it: in a cell in which many of its images are, and more than of all others
  // together. A class without such a cell has no name on the plane.
  marks() {
    if (!page.classes || this.line) return [];
    const draw = this.base.getContext("2d");
    draw.font = `bold 15px ${FONT}`;
    const cells = Math.max(6, Math.round(this.inner / 14)), width = this.inner / cells;
    const counts = page.names.map(() => new Uint16Array(cells * cells)), all = new Uint16Array(cells * cells);
    for (let i = 0; i < this.places.length / 2; i++) {
      const [x, y] = this.at([this.places[2 * i], this.places[2 * i + 1]]);
      const column = Math.floor((x - MARGIN) / width), row = Math.floor((y - EDGE) / width);
      for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, cells - 1); c++) {
        for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, cells - 1); r++) {
          counts[page.labelsOf[i]][r * cells + c]++;
          all[r * cells + c]++;
        }
      }
    }
    const taken = [], marks = [], order = counts.map((own, label) => [Math.max(...own), label]).sort((a, b) => b[0] - a[0]);
    const sizes = counts.map((own) => own.reduce((sum, count) => sum + count, 0) / 9);
    for (const [, label] of order) { // the densest clouds first
      if (state.only >= 0 && label !== state.only) continue;
      const name = cut(page.names[label], 12), half = draw.measureText(name).width / 2;
      let best = -1, most = 0;
      counts[label].forEach((own, cell) => {
        if (own * own <= most * all[cell] || 2 * own <= all[cell] || own < 0.04 * sizes[label]) return;
        const near = ([c, r, other]) => Math.abs(c - (cell % cells)) < Math.max(2, (half + other) / width)
          && Math.abs(r - Math.floor(cell / cells)) < 2;
        if (!taken.some(near)) [best, most] = [cell, (own * own) / all[cell]];
      });
      if (best < 0) continue;
      const [c, r] = [best % cells, Math.floor(best / cells)];
      taken.push([c, r, half]);
      const x = Math.min(Math.max(MARGIN + (c + 0.5) * width, MARGIN + half), this.size - EDGE - half);
      marks.push([name, x, EDGE + (r + 0.5) * width]);
    }
    return marks;
  }

  // Decode the plane in view as a sheet of images, a few in each frame.
  tile() {
    if (!state.tiles || !this.size) return;
    const longer = Math.max(page.shape[0], page.shape[1]), side = longer + 2;
    const count = Math.min(Math.max(Math.round(this.inner / Math.max(24, longer / 2)), 6), 28);
    const canvas = element("canvas", { width: count * side, height: count * side });
    canvas.getContext("2d").fillStyle = theme.paper;
    canvas.getContext("2d").fillRect(0, 0, canvas.width, canvas.height);
    this.job = { canvas, count, side, view: this.view, next: 0 };
    schedule();
  }

  work(until) {
    const { job } = this, [height, width] = page.shape;
    if (!job) return;
    const [[left, right], [bottom, top]] = job.view, draw = job.canvas.getContext("2d");
    for (; job.next < job.count ** 2 && performance.now() < until; job.next++) {
      const column = job.next % job.count, row = Math.floor(job.next / job.count);
      const [u, v] = [(column + 0.5) / job.count, (row + 0.5) / job.count];
      const z = this.lift(left + u * (right - left), top - v * (top - bottom), this.model.center);
      const [x, y] = [column * job.side + (job.side - width) / 2, row * job.side + (job.side - height) / 2];
      draw.putImageData(picture(this.model.decode(z)), Math.floor(x), Math.floor(y));
    }
    if (job.next === job.count ** 2) {
      Object.assign(this, { sheet: job, job: null, stale: true });
    } else schedule();
  }
}
