"use strict";

// Permalinks: the state of the page in its address; and a tour of five of them.

const list = (values) => values.map((x) => Number(x.toPrecision(6))).join(",");

function permalink() {
  const hash = new URLSearchParams(), card = cards[state.lead];
  if (tour.at >= 0) hash.set("tour", tour.at + 1);
  if (state.mode !== "explore") hash.set("mode", state.mode);
  if (state.lead) hash.set("plane", state.lead);
  if (state.only >= 0) hash.set("class", page.names[state.only]);
  for (const name of ["tiles", "holes"]) if (state[name]) hash.set(name, 1);
  if (state.link !== "image") hash.set("link", state.link);
  if (state.seed !== 1) hash.set("seed", state.seed);
  if (state.mode === "walk" && state.walk[1] >= 0) hash.set("walk", state.walk);
  if (state.mode === "replay") hash.set("epoch", state.epoch);
  if (card.held) hash.set("z", list(card.z));
  else hash.set("image", card.near);
  cards.forEach(({ model, models, view, frame, z }, i) => {
    if (state.link === "nothing" && i !== state.lead) hash.set(`z${i}`, list(z));
    if (models.length > 1) hash.set(`beta${i}`, model.beta);
    if (view !== frame) hash.set(`view${i}`, list(view.flat()));
  });
  return `#${hash.toString().replaceAll("%2C", ",")}`;
}

// Show what a permalink says; what it does not name, or names wrongly, is as at the start.
function visit(address) {
  const hash = new URLSearchParams(address.replace(/^#/, "")), numbers = (name) => (hash.get(name) ?? "").split(",").map(Number);
  const whole = (text, below, otherwise) => (/^\d+$/.test(text ?? "") && +text < below ? +text : otherwise);
  const { count } = page, pair = (hash.get("walk") ?? "").split(",").map((i) => whole(i, count, -1));
  const image = whole(hash.get("image"), count, 0), point = (name, { z }) => {
    const found = numbers(name);
    return hash.has(name) && found.length === z.length && found.every(Number.isFinite) ? found : null;
  };
  const chosen = Object.hasOwn(MODES, hash.get("mode") ?? "") && !$(`#mode-${hash.get("mode")}`)?.disabled;
  Object.assign(state, {
    mode: chosen ? hash.get("mode") : "explore",
    lead: whole(hash.get("plane"), cards.length, 0),
    only: page.names.indexOf(hash.get("class")),
    link: ["coordinates", "nothing"].includes(hash.get("link")) ? hash.get("link") : "image",
    tiles: hash.has("tiles"),
    holes: hash.has("holes"),
    epoch: whole(hash.get("epoch"), +$("#epoch").max + 1, 0),
    seed: whole(hash.get("seed"), 1e9, 1),
    walk: pair.length === 2 && !pair.includes(-1) ? pair : [-1, -1],
  });
  tour.at = whole(hash.get("tour"), tour.stops().length + 1, 0) - 1;
  cards.forEach((card, i) => {
    const view = numbers(`view${i}`), named = hash.has(`beta${i}`), beta = numbers(`beta${i}`)[0];
    const wide = (k) => view[2 * k + 1] - view[2 * k] > 1e-3 * (card.frame[k][1] - card.frame[k][0]);
    const valid = view.length === 4 && view.every(Number.isFinite) && wide(0) && wide(1);
    card.view = valid ? [view.slice(0, 2), view.slice(2)] : card.frame;
    const index = named ? card.models.findIndex((model) => model.beta === beta) : -1;
    if (card.models.length > 1) card.select(index < 0 ? card.start : index);
    card.held = false;
    card.tile();
    card.place(point(`z${i}`, card) ?? Array.from(card.codes[image]));
  });
  const card = cards[state.lead], z = point("z", card);
  card.lead(z ?? Array.from(card.codes[image]), Boolean(z));
  controls();
  enter();
  tour.show();
}

let linking;
function link() {
  clearTimeout(linking);
  linking = setTimeout(() => {
    try {
      history.replaceState(null, "", permalink());
    } catch { /* in a frame that has no address, MLflow's artifact pane, there is nothing to link to */ }
  }, 300);
}

// A test image of a class that the last model reconstructs better than nine in ten others of the class, of up to 100.
function clear(label) {
  const { model, codes } = cards.at(-1), own = [...Array(page.count).keys()].filter((i) => page.labelsOf[i] === label).slice(0, 100);
  const errors = new Map(own.map((i) => [i, apart(testImage(i), model.decode(Array.from(codes[i])))]));
  return own.sort((i, j) => errors.get(i) - errors.get(j))[Math.floor(own.length / 10)];
}

const tour = {
  at: -1,

  // Title, words and, as a function, what to show.
  stops() {
    const present = [...new Set(page.labelsOf.subarray(0, page.count))].sort((a, b) => a - b), dim = cards[0].z.length, word = page.classes === "digit" ? "digit" : "image";
    const pick = (...wanted) => clear(wanted.find((label) => present.includes(label)) ?? present[0]);
    const many = cards.findIndex((card) => card.models.length > 1), betas = many < 0 ? [] : cards[many].models.map(({ beta }) => beta);
    return [
      ["What a code is",
        `The encoder turns an image into a code: here ${["one number", "two numbers"][dim - 1] ?? `${dim} numbers`}, a point on the plane. The decoder turns `
        + `a code back into an image. Compare the test image with its reconstruction: so short a code keeps the ${word}'s rough shape `
        + "and loses its details. Now move the pointer: every point of the plane is a code.",
        () => ({ image: pick(2) })],
      ["Where the autoencoder has holes",
        "Training teaches an autoencoder only the codes of its training images; nothing says what lies between them. Move across the plane "
        + "and see the images between two clouds of codes. "
        + (this.hole() ? "Shaded places decode to images that a classifier does not recognize; the point is held in one." : ""),
        () => (this.hole() ? { holes: 1, link: "nothing", z: list(this.hole()) } : { tiles: 1, link: "nothing" })],
      ["The prior",
        "To make new images, draw codes from N(0, I) and decode them. A VAE is trained so that its codes, all together, look like such "
        + "draws. Nothing asks this of the autoencoder: its codes spread far beyond, so the same draws reach a small part of them, and "
        + "images whose codes lie elsewhere never come up.",
        () => ({ mode: "prior" })],
      [`Walk between two ${page.classes === "digit" ? "digits" : "images"}`,
        "The straight line from A to B, decoded. Look for steps that resemble no real image. A path length far above the distance "
        + "between its ends means that the images make a detour.",
        () => ({ mode: "walk", walk: [pick(0), pick(1, 2, 3)], image: pick(0) })],
      ["What beta does",
        "β weighs the KL term, which pulls each posterior towards N(0, I). A larger β makes the ellipses larger, so that "
        + "those of different images overlap, and the images blur. "
        + (many < 0
          ? "An autoencoder has no such term: look at the numbers on its axes. To compare several β, run `make claims` and open explorer/betas.html."
          : "Move the slider β above the plane and watch the codes, the ellipse and the reconstruction."),
        () => ({ mode: "posterior", image: pick(7, 2), ...(many < 0 ? {} : { [`beta${many}`]: Math.max(...betas) }) })],
    ];
  },

  // Where, in the middle of the first plane, a classifier is least sure what it sees.
  hole() {
    const { map } = cards[0].model;
    if (!map) return null;
    const [height, width] = map.shape, [[left, right], [bottom, top]] = map.frame, values = array(map.values);
    let best = -1;
    values.forEach((sure, i) => {
      const [u, v] = [(i % width) / (width - 1), Math.floor(i / width) / (height - 1)];
      if (Math.abs(u - 0.5) < 0.25 && Math.abs(v - 0.5) < 0.25 && (best < 0 || sure < values[best])) best = i;
    });
    const [u, v] = [(best % width) / (width - 1), Math.floor(best / width) / (height - 1)];
    return [left + u * (right - left), top - v * (top - bottom)];
  },

  go(at) {
    const stop = this.stops()[at];
    visit(new URLSearchParams(stop ? { tour: at + 1, ...stop[2]() } : {}).toString());
  },

  show() {
    const stops = this.stops(), stop = stops[this.at];
    $("#tour").hidden = !stop;
    $("#start").hidden = Boolean(stop);
    if (!stop) return;
    $("#tour h2").textContent = stop[0];
    $("#tour p").textContent = stop[1];
    $("#step").textContent = `${this.at + 1} of ${stops.length}`;
    $("#back").disabled = this.at === 0;
    $("#next").textContent = this.at === stops.length - 1 ? "Finish" : "Next";
  },

  listen() {
    $("#start").addEventListener("click", () => (this.go(0), $("#tour").focus()));
    $("#back").addEventListener("click", () => this.go(this.at - 1));
    $("#next").addEventListener("click", () => this.go(this.at + 1));
    $("#close").addEventListener("click", () => this.go(-1));
    addEventListener("hashchange", () => visit(location.hash));
  },
};
