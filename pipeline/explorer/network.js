"use strict";

// What the page holds, and the networks that it runs.

const $ = (selector, root = document) => root.querySelector(selector);
const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
const number = (x, digits = 2) => x.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−"); // no minus before 0.00
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

// The numbers that the networks compute with: weights, and what a layer reads and writes. A place is an index of ``heap``, in which
// ``room`` is made when the page starts.
const memory = globalThis.WebAssembly && new WebAssembly.Memory({ initial: 1 });
const whole = (count) => (count + 3) & ~3; // numbers are taken four at a time
let heap = new Float32Array(memory?.buffer ?? 0), used = 0;

function room(count) {
  const at = used;
  used += whole(count) + 4;
  if (used > heap.length) {
    const former = heap;
    memory?.grow(Math.ceil((4 * (used - heap.length)) / 65536));
    heap = new Float32Array(memory?.buffer ?? used);
    if (!memory) heap.set(former);
  }
  return at;
}

// Rows of ``length`` weights, each filled up with zeros to fours.
function place(weight, length) {
  const rows = weight.length / length, at = room(rows * whole(length));
  for (let i = 0; i < rows; i++) heap.set(weight.subarray(i * length, (i + 1) * length), at + i * whole(length));
  return at;
}

// Add weights times the inputs from ``x`` to ``end`` to ``rows`` rows of ``length`` sums, which are ``skip`` apart. The weights of each
// input lie one after another. All places, lengths and distances are in bytes, and a length is that of whole fours. Inputs of zero
// cost nothing: a ReLU silences about every second one, and most pixels of a digit are black. Where it can, simd.js replaces this.
let accumulate = (to, skip, rows, length, x, end, weight) => {
  for (let from = x >> 2, w = weight >> 2; from < end >> 2; from++) {
    const value = heap[from];
    if (value === 0) w += (rows * length) >> 2;
    else for (let row = 0, at = to >> 2; row < rows; row++, at += skip >> 2) {
      for (const stop = at + (length >> 2); at < stop; at++, w++) heap[at] += value * heap[w];
    }
  }
};

// Each layer as the function that computes it from the numbers at ``from``, and where its ``count`` outputs are. Images lie channels
// last. Convolutions have 4 x 4 weights, stride 2 and a frame of one pixel, which takes what would fall outside. The 4 neighbors in
// a line lie side by side.
const LAYERS = {
  // Weights lie by input, output.
  Linear({ weight, bias }, from) {
    const count = bias.length, end = from + weight.length / count, weights = place(weight, count), to = room(count);
    const run = () => {
      heap.set(bias, to);
      accumulate(4 * to, 0, 1, 4 * whole(count), 4 * from, 4 * end, 4 * weights);
    };
    return { run, to, count };
  },

  // Weights lie by row, column, input, output.
  Conv2d({ weight, bias, inputs: [channels, height, width] }, from) {
    const line = (width + 2) * channels, inner = width * channels, reach = 4 * channels, outputs = bias.length;
    const count = (height * width * outputs) / 4, weights = place(weight, outputs), length = whole(outputs);
    const framed = room((height + 2) * line), to = room(count);
    const run = () => {
      for (let row = 0, at = from; row < height; row++, at += inner) heap.copyWithin(framed + (row + 1) * line + channels, at, at + inner);
      for (let row = 0, at = to; row < height; row += 2) {
        for (let column = 0; column < width; column += 2, at += outputs) {
          heap.set(bias, at);
          for (let near = 0; near < 4; near++) {
            const x = framed + (row + near) * line + column * channels;
            accumulate(4 * at, 0, 1, 4 * length, 4 * x, 4 * (x + reach), 4 * (weights + near * reach * length));
          }
        }
      }
    };
    return { run, to, count };
  },

  // Weights lie by input, row, column, output.
  ConvTranspose2d({ weight, bias, inputs: [channels, height, width] }, from) {
    const outputs = bias.length, line = (2 * width + 2) * outputs, inner = 2 * width * outputs, reach = 4 * outputs;
    const count = 2 * height * inner, weights = place(weight, reach), start = new Float32Array((2 * height + 2) * line);
    const framed = room(start.length), to = room(count);
    for (let i = 0; i < start.length; i += outputs) start.set(bias, i);
    const run = () => {
      heap.set(start, framed);
      for (let row = 0, x = from; row < height; row++) {
        for (let column = 0; column < width; column++, x += channels) {
          const at = framed + 2 * (row * line + column * outputs);
          accumulate(4 * at, 4 * (line - reach), 4, 4 * reach, 4 * x, 4 * (x + channels), 4 * weights);
        }
      }
      for (let row = 0; row < 2 * height; row++) {
        const at = framed + (row + 1) * line + outputs;
        heap.copyWithin(to + row * inner, at, at + inner);
      }
    };
    return { run, to, count };
  },
};

// Layers with a ReLU between every two, as a function of their input that returns a view of their output.
function network(packed) {
  const first = room(packed[0].inputs.reduce((product, side) => product * side)), layers = [];
  for (const layer of packed) {
    const from = layers.at(-1)?.to ?? first;
    layers.push(LAYERS[layer.kind]({ ...layer, weight: array(layer.weight), bias: array(layer.bias) }, from));
  }
  return (input) => {
    heap.set(input, first);
    layers.forEach(({ run, to, count }, depth) => {
      run();
      if (depth + 1 < layers.length) for (let i = to; i < to + count; i++) if (heap[i] < 0) heap[i] = 0;
    });
    const { to, count } = layers.at(-1);
    return heap.subarray(to, to + count);
  };
}

// The intensity that an output stands for, by likelihood; for all others it is the sigmoid.
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const INTENSITIES = {
  continuous_bernoulli: (x) => (Math.abs(x) < 0.01 ? 0.5 + x / 12 : sigmoid(x) / Math.tanh(x / 2) - 1 / x),
};

// The intensities of a code's image.
function decoder(packed, likelihood) {
  const outputs = network(packed), intensity = INTENSITIES[likelihood] ?? sigmoid;
  return (z) => {
    const pixels = outputs(z).slice();
    for (let i = 0; i < pixels.length; i++) pixels[i] = intensity(pixels[i]);
    return pixels;
  };
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
