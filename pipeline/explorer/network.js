"use strict";

// What the page holds, and the networks that it runs.

const $ = (selector, root = document) => root.querySelector(selector);
const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const page = JSON.parse($("#data").textContent);
let bytes;

async function unpack() {
  const packed = Uint8Array.from(atob($("#blob").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  bytes = new Uint8Array(await new Response(stream).arrayBuffer());
}

// Arrays lie in the blob as all first bytes, all second bytes ..., which compresses better. A float24 lacks the lowest byte.
function array([type, offset, length]) {
  const size = { float32: 4, float24: 3, float16: 2, uint8: 1 }[type], width = type === "float24" ? 4 : size;
  const values = new Uint8Array(length * width);
  for (let k = 0; k < size; k++) {
    for (let i = 0, at = width - size + k; i < length; i++, at += width) values[at] = bytes[offset + k * length + i];
  }
  if (width === 4) return new Float32Array(values.buffer);
  return type === "uint8" ? values : Float32Array.from(new Uint16Array(values.buffer), half);
}

function half(h) {
  const exponent = (h >> 10) & 31, fraction = (h & 1023) / 1024, sign = h >> 15 ? -1 : 1;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

// Add rows of ``weight``, ``length`` long and ``stride`` apart from ``at`` on, to ``sums`` from ``to`` on, each times its input, the
// ``count`` numbers of ``x`` from ``from`` on. Inputs of zero cost nothing: a ReLU silences about every second one, and most pixels
// of a digit are black. Four rows at once read and write the sums once.
function accumulate(sums, to, length, x, from, count, weight, at, stride) {
  for (let i = 0; i < count;) {
    let a = 0, b = 0, c = 0, d = 0, rowA = 0, rowB = 0, rowC = 0, rowD = 0;
    for (let found = 0; i < count && found < 4; i++) {
      const value = x[from + i];
      if (value === 0) continue;
      [a, b, c, d] = [value, a, b, c];
      [rowA, rowB, rowC, rowD] = [at + i * stride, rowA, rowB, rowC];
      found++;
    }
    if (a !== 0) for (let k = 0; k < length; k++) {
      sums[to + k] += a * weight[rowA + k] + b * weight[rowB + k] + c * weight[rowC + k] + d * weight[rowD + k];
    }
  }
}

// Each layer as a function from its input to its output, images channels last. Convolutions have 4 x 4 weights, stride 2 and a
// frame of one pixel, which takes what would fall outside. The 4 neighbors in a line lie side by side.
const LAYERS = {
  // Weights lie by input, output.
  Linear({ weight, bias }) {
    const sums = new Float64Array(bias.length);
    return (x) => {
      sums.set(bias);
      accumulate(sums, 0, sums.length, x, 0, x.length, weight, 0, sums.length);
      return sums;
    };
  },

  // Weights lie by row, column, input, output.
  Conv2d({ weight, bias, inputs: [channels, height, width] }) {
    const line = (width + 2) * channels, inner = width * channels, reach = 4 * channels, count = bias.length;
    const framed = new Float64Array((height + 2) * line), sums = new Float64Array((height * width * count) / 4);
    return (x) => {
      for (let row = 0; row < height; row++) framed.set(x.subarray(row * inner, (row + 1) * inner), (row + 1) * line + channels);
      for (let row = 0, to = 0; row < height; row += 2) {
        for (let column = 0; column < width; column += 2, to += count) {
          sums.set(bias, to);
          for (let near = 0; near < 4; near++) {
            accumulate(sums, to, count, framed, (row + near) * line + column * channels, reach, weight, near * reach * count, count);
          }
        }
      }
      return sums;
    };
  },

  // Weights lie by input, row, column, output.
  ConvTranspose2d({ weight, bias, inputs: [channels, height, width] }) {
    const count = bias.length, line = (2 * width + 2) * count, inner = 2 * width * count, reach = 4 * count;
    const framed = new Float64Array((2 * height + 2) * line), sums = new Float64Array(2 * height * inner);
    const start = framed.map((_, i) => bias[i % count]);
    return (x) => {
      framed.set(start);
      for (let row = 0, from = 0; row < height; row++) {
        for (let column = 0; column < width; column++, from += channels) {
          for (let near = 0; near < 4; near++) {
            accumulate(framed, (2 * row + near) * line + 2 * column * count, reach, x, from, channels, weight, near * reach, 4 * reach);
          }
        }
      }
      for (let row = 0; row < 2 * height; row++) {
        const from = (row + 1) * line + count;
        sums.set(framed.subarray(from, from + inner), row * inner);
      }
      return sums;
    };
  },
};

// Layers with a ReLU between every two.
function network(packed) {
  const layers = packed.map((layer) => LAYERS[layer.kind]({ ...layer, weight: array(layer.weight), bias: array(layer.bias) }));
  return (input) => layers.reduce((x, layer, depth) => {
    if (depth) for (let i = 0; i < x.length; i++) if (x[i] < 0) x[i] = 0;
    return layer(x);
  }, input);
}

// The intensity that an output stands for, by likelihood; for all others it is the sigmoid.
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const INTENSITIES = {
  continuous_bernoulli: (x) => (Math.abs(x) < 0.01 ? 0.5 + x / 12 : sigmoid(x) / Math.tanh(x / 2) - 1 / x),
};

// The intensities of a code's image.
function decoder(packed, likelihood) {
  const outputs = network(packed), intensity = INTENSITIES[likelihood] ?? sigmoid;
  return (z) => Float32Array.from(outputs(z), intensity);
}

// The code of an image, and its standard deviations where the encoder's outputs are those of a Gaussian.
function encoder(packed, dim) {
  const outputs = network(packed);
  return (pixels) => {
    const found = Array.from(outputs(pixels));
    return { code: found.slice(0, dim), spread: found.slice(dim).map((logvar) => Math.exp(logvar / 2)) };
  };
}

// Standard normal numbers, the same ones for the same seed (mulberry32 and Box-Muller).
function normal(seed) {
  let state = seed * 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 1) / 4294967297;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}
