"use strict";

// Drawing a digit, and what MNIST's makers did to theirs: scaled into a square of 20 pixels, then moved so that its center of
// mass is the center of 28 x 28.

const BOX = 20 / 28;

// The mean of ``ink`` [size, size] over each cell of a grid whose cells are ``scale`` wide, the first at (left, top).
function resample(ink, size, [height, width], scale, left, top) {
  const pixels = new Float32Array(height * width);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const value = ink[y * size + x];
      if (!value) continue;
      const u = (x - left) / scale, v = (y - top) / scale, span = 1 / scale; // what this pixel covers of the grid
      for (let row = Math.max(Math.floor(v), 0); row < Math.min(v + span, height); row++) {
        for (let column = Math.max(Math.floor(u), 0); column < Math.min(u + span, width); column++) {
          const high = Math.min(v + span, row + 1) - Math.max(v, row), wide = Math.min(u + span, column + 1) - Math.max(u, column);
          if (high > 0 && wide > 0) pixels[row * width + column] += value * high * wide;
        }
      }
    }
  }
  return pixels;
}

// Intensities in [0, 1] of an image of the page's shape, or null where nothing is drawn.
function asMnist(ink, size, shape) {
  let [left, right, top, bottom, mass, x, y] = [size, 0, size, 0, 0, 0, 0];
  for (let i = 0; i < ink.length; i++) {
    if (!ink[i]) continue;
    const [row, column] = [Math.floor(i / size), i % size];
    [left, right, top, bottom] = [Math.min(left, column), Math.max(right, column + 1), Math.min(top, row), Math.max(bottom, row + 1)];
    [mass, x, y] = [mass + ink[i], x + ink[i] * (column + 0.5), y + ink[i] * (row + 0.5)];
  }
  if (!mass) return null;
  const [height, width] = shape, scale = Math.max(right - left, bottom - top) / (BOX * Math.min(height, width));
  const pixels = resample(ink, size, shape, scale, x / mass - (scale * width) / 2, y / mass - (scale * height) / 2);
  return pixels.map((value) => Math.min(value, 1));
}

const drawing = {
  pixels: null,

  start() {
    const canvas = $("#canvas"), pen = canvas.getContext("2d", { willReadFrequently: true });
    const spot = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.x) / box.width) * canvas.width, ((event.clientY - box.y) / box.height) * canvas.height];
    };
    let last = null;
    const stroke = (event) => {
      const to = spot(event);
      Object.assign(pen, { lineWidth: canvas.width / 13, lineCap: "round", lineJoin: "round", strokeStyle: theme.ink });
      pen.beginPath();
      pen.moveTo(...last);
      pen.lineTo(...to);
      pen.stroke();
      last = to;
      this.read(pen, canvas);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      last = spot(event);
      stroke(event);
    });
    canvas.addEventListener("pointermove", (event) => last && stroke(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (last = null));
    $("#clear").addEventListener("click", () => {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      this.read(pen, canvas);
    });
  },

  // Encode what is drawn, once in a frame.
  read(pen, canvas) {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
      this.pixels = asMnist(Float32Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3] / 255), canvas.width, page.shape);
      state.drawing++;
      MODES.draw.enter();
      cards.forEach((card) => card.redraw());
      changed();
    });
  },
};
