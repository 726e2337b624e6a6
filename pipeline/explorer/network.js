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

// Linear layers with a ReLU between every two. Weights lie input by input, so that an input of zero costs nothing: a ReLU
// silences about every second one, and most pixels of a digit are black.
function network(packed) {
  const layers = packed.map(([weight, bias]) => ({ weight: array(weight), bias: array(bias) }));
  for (const layer of layers) layer.sums = new Float64Array(layer.bias.length);
  return (input) => {
    let x = input;
    for (const { weight, bias, sums } of layers) {
      sums.set(bias);
      for (let i = 0, at = 0; i < x.length; i++, at += sums.length) {
        const value = x === input ? x[i] : Math.max(x[i], 0);
        if (value !== 0) for (let k = 0; k < sums.length; k++) sums[k] += value * weight[at + k];
      }
      x = sums;
    }
    return x;
  };
}

// The intensities of a code's image.
function decoder(packed) {
  const logits = network(packed);
  return (z) => Float32Array.from(logits(z), (x) => 1 / (1 + Math.exp(-x)));
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
