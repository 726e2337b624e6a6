"use strict";

// What the page can show: each mode has a sentence, may draw on the planes and fill the strip of images below them.

const state = { mode: "explore", only: -1, tiles: false, holes: false, link: "image", walk: [-1, -1], seed: 1, lead: 0, drawing: 0, epoch: 0 };
const STEPS = 10, PATH = 64, SAMPLES = 16;

function testImage(i) {
  const size = page.shape.reduce((product, side) => product * side);
  return Float32Array.from(page.pixels.subarray(i * size, (i + 1) * size), (byte) => byte / 255);
}

const between = (a, b, t) => Array.from(a, (x, i) => x + t * (b[i] - x));
const apart = (a, b) => Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0));

// How long the decoded images' way from one code to another is in pixel space, and how far apart its ends are.
function pathLength(decode, a, b) {
  const first = decode(between(a, b, 0));
  let last = first, length = 0;
  for (let step = 1; step <= PATH; step++) {
    const next = decode(between(a, b, step / PATH));
    length += apart(last, next);
    last = next;
  }
  return { length, straight: apart(first, last) };
}

function diamond(card, draw, [x, y], style = theme.accent) {
  for (const [color, wide] of [[theme.paper, 4], [style, 1]]) {
    Object.assign(draw, { fillStyle: style });
    card.stroke(draw, color, wide, () => {
      for (const [dx, dy] of [[-4, 0], [0, -4], [4, 0], [0, 4], [-4, 0]]) draw.lineTo(x + dx, y + dy);
    });
    draw.fill();
  }
}

// What is too small to be seen on the plane, in a corner of it: an ellipse and the codes drawn from it.
function inset(card, draw, code, spread, samples) {
  const size = card.inner / 4, left = card.size - EDGE - size - 6, top = EDGE + 6, [x, y] = card.project(code);
  const pixel = card.inner / (card.view[0][1] - card.view[0][0]), times = size / (8 * Math.max(...spread) * pixel);
  if (times < 3) return;
  const at = ([u, v]) => [left + size / 2 + (u - x) * pixel * times, top + size / 2 - (v - y) * pixel * times];
  Object.assign(draw, { fillStyle: theme.paper, font: `12px ${FONT}`, textBaseline: "middle" });
  draw.fillRect(left, top, size, size);
  card.stroke(draw, theme.pencil, 1, () => draw.rect(left, top, size, size));
  card.ellipse(draw, code, spread, theme.ink, at);
  for (const sample of samples) diamond(card, draw, at(card.project(sample)));
  card.text(draw, `× ${number(times, 0)}`, left + size - 5, top + size + 9, { align: "right", halo: true });
}

const posterior = (card, draw) => {
  const spread = card.spreadOf(card.near);
  if (spread && !card.line) card.ellipse(draw, card.codes[card.near], spread);
};

const walkEnds = () => state.walk.map((i, end) => (i < 0 && end && state.walk[0] >= 0 ? cards[state.lead].near : i));

const MODES = {
  explore: {
    label: "Explore",
    help: "Point at a plane to decode the code under the pointer; click to hold it. The ring marks the nearest test image.",
    mark: posterior,
  },

  posterior: {
    label: "Posterior",
    help: "A VAE's encoder gives each image a small Gaussian of codes, the posterior; the ellipse is at two standard deviations. "
      + "The encoder of an autoencoder gives one point. Below: codes drawn from the posterior of the nearest test image, decoded.",
    action: "Draw again",
    follow(card) {
      const spread = card.spreadOf(card.near), mean = card.codes[card.near], draw = normal(state.seed);
      card.samples = spread ? Array.from({ length: SAMPLES / 2 }, () => Array.from(mean, (x, i) => x + spread[i] * draw())) : [];
      const tiles = card.samples.map((code, i) => ({ pixels: card.model.decode(code), words: `sample ${i + 1} of the posterior`, code }));
      const listed = spread && Array.from(spread.slice(0, 4), (s) => number(s)).join(", ") + (spread.length > 4 ? ", …" : "");
      card.strip(tiles, 8, spread ? `Standard deviations of the posterior: ${listed}.` : "One point: there is nothing to draw from.");
    },
    mark(card, draw) {
      const spread = card.spreadOf(card.near);
      if (!spread || card.line) return;
      posterior(card, draw);
      for (const code of card.samples) diamond(card, draw, card.at(card.project(code)));
      inset(card, draw, card.codes[card.near], spread, card.samples);
    },
  },

  walk: {
    label: "Walk",
    help: "Click near a test image A, then near a test image B: the straight line between their codes is decoded step by step, in both planes.",
    action: "Another pair",
    enter() {
      if (state.walk[0] < 0) this.act();
    },
    act() {
      const draw = normal(state.seed), pick = () => Math.floor(Math.abs(draw()) * 1e4) % page.count;
      const first = pick();
      let second = pick();
      for (let i = 0; i < 50 && page.labelsOf[second] === page.labelsOf[first]; i++) second = pick();
      state.walk = [first, second];
      cards[state.lead].lead(Array.from(cards[state.lead].codes[first]), false);
    },
    click(card) {
      const [a, b] = state.walk;
      state.walk = a < 0 || b >= 0 ? [card.near, -1] : [a, card.near];
      cards.forEach((one) => one.redraw());
    },
    follow(card) {
      const [a, b] = walkEnds(), key = `${a} ${b} ${state.walk[1] < 0}`;
      if (a < 0 || (card.walked === key && card.walker === card.model)) return;
      Object.assign(card, { walked: key, walker: card.model });
      const [from, to] = [card.codes[a], card.codes[b]];
      const steps = Array.from({ length: STEPS }, (_, i) => between(from, to, i / (STEPS - 1)));
      const tiles = steps.map((code, i) => ({ pixels: card.model.decode(code), words: `step ${i + 1} of ${STEPS}`, code }));
      const end = (i, name) => ({ pixels: testImage(i), words: `test image ${name}, ${nearestImage(i)}`, real: true });
      card.path = state.walk[1] < 0 ? null : pathLength(card.model.decode, from, to);
      const { length, straight } = card.path ?? {};
      const note = `Path length in pixel space: ${number(length ?? 0, 1)}, ${number(length / straight || 1, 1)} times the distance between its ends.`;
      card.strip([end(a, "A"), ...tiles, end(b, "B")], STEPS + 2, card.path ? note : "Now click near a test image B.");
    },
    mark(card, draw) {
      const [a, b] = walkEnds();
      if (a < 0) return;
      const ends = [card.spotOf(a), card.spotOf(b)];
      for (const [color, wide] of [[theme.paper, 5], [theme.accent, 2.5]]) {
        card.stroke(draw, color, wide, () => (draw.moveTo(...ends[0]), draw.lineTo(...ends[1])));
      }
      Object.assign(draw, { font: `bold 15px ${FONT}`, textBaseline: "middle" });
      ends.forEach(([x, y], i) => {
        card.ring(draw, x, y, 4, 2.5, theme.accent);
        card.text(draw, "AB"[i], x, y - 15, { halo: true, style: theme.accent });
      });
    },
  },

  prior: {
    label: "Prior",
    help: "Codes drawn from N(0, I), the same for all models. A VAE's training pulls its codes there, so the draws should cover them. "
      + "Nothing pulls an autoencoder's codes there: the same draws reach a small part of them.",
    action: "Draw again",
    prior: true, // the circles are drawn for every model
    enter() {
      for (const card of cards) {
        const draw = normal(state.seed), dim = card.model.center.length;
        card.samples = Array.from({ length: SAMPLES }, () => Array.from({ length: dim }, draw));
        const tiles = card.samples.map((code, i) => ({ pixels: card.model.decode(code), words: `sample ${i + 1} of the prior`, code }));
        card.strip(tiles, 8, `${SAMPLES} codes drawn from N(0, I), decoded.`);
      }
    },
    mark(card, draw) {
      for (const code of card.samples) diamond(card, draw, card.line ? card.at([code[0], -0.5]) : card.at(card.project(code)));
    },
  },

  draw: {
    label: "Draw",
    help: "Draw with the pointer. The image is scaled and centered as MNIST's are; each encoder turns it into a code, the square on "
      + "its plane, and each decoder turns the code back into an image.",
    enter() {
      cards.forEach((card) => this.encode(card));
    },
    encode(card) {
      card.own = null;
      if (!drawing.pixels || !card.model.encode) return;
      card.own = { ...card.model.encode(drawing.pixels), key: `drawing ${state.drawing}`, pixels: drawing.pixels, words: "your drawing" };
      card.held = true;
      card.place(card.own.code);
    },
    source(card) {
      return card.own;
    },
    mark(card, draw) {
      if (!card.own) return;
      const { code, spread } = card.own, [x, y] = card.line ? card.at([code[0], -0.5]) : card.at(card.project(code));
      if (spread.length && !card.line) card.ellipse(draw, code, spread, theme.accent);
      for (const [color, wide] of [[theme.paper, 6], [theme.accent, 3]]) card.stroke(draw, color, wide, () => draw.rect(x - 8, y - 8, 16, 16));
    },
  },

  replay: {
    label: "Training",
    help: "The codes of the same test images before the training (epoch 0) and after each of its epochs. The images beside the "
      + "planes are those of the trained models.",
    still: true, // the decoders of these epochs are not in the page, so no point is decoded
    enter() {
      this.epoch(state.epoch);
    },
    epoch(number) {
      state.epoch = number;
      Object.assign($("#epoch"), { value: number, ariaValueText: `epoch ${number}` });
      for (const card of cards) {
        card.arrange();
        const last = card.model.replay?.epochs;
        const note = last === undefined ? "Its epochs are not in this page." : `Epoch ${Math.min(number, last)} of ${last}.`;
        card.strip([], 8, note);
      }
    },
    play(go) {
      clearInterval(this.timer);
      this.timer = 0;
      $("#play").textContent = go ? "Pause" : "Play";
      if (!go) return;
      if (state.epoch === +$("#epoch").max) this.epoch(0);
      this.timer = setInterval(() => {
        this.epoch(state.epoch + 1);
        if (state.epoch >= +$("#epoch").max) this.play(false);
        changed();
      }, matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 250);
    },
  },
};

// Show the state: called after each change of mode, class, model or seed.
function enter() {
  const mode = MODES[state.mode];
  for (const card of cards) {
    Object.assign(card, { samples: [], walked: "" });
    card.strip([], 8, "");
  }
  if (MODES.replay.timer) MODES.replay.play(false);
  cards.forEach((card) => card.arrange());
  mode.enter?.();
  $("#help").textContent = mode.help;
  $("#act").hidden = !mode.action;
  $("#act").textContent = mode.action ?? "";
  for (const name of ["tiles", "holes"]) $(`#${name}`).disabled = Boolean(mode.still);
  $("#replay").hidden = state.mode !== "replay";
  $("#drawing").hidden = state.mode !== "draw";
  cards.forEach((card) => card.redraw());
  changed();
}
