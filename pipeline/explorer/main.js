"use strict";

// The toolbar, and the loop that draws at most once in a frame.

const SLICE = 8; // milliseconds of a frame for decoding tiles

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const until = performance.now() + SLICE;
    cards.forEach((card) => card.refresh(until));
  });
}

// Say what is shown, once the pointer rests, and put it into the address.
let saying;
function changed() {
  link();
  clearTimeout(saying);
  saying = setTimeout(() => {
    const card = cards[state.lead], shown = card.model.sliders.length ? card.project(card.z) : card.z;
    const strip = $(".note", card.section).textContent;
    $("#status").textContent = `${card.model.label}: point ${shown.map((x) => number(x, 1)).join(", ")}; `
      + `nearest test image: ${nearestImage(card.near)}. ${strip}`;
  }, 400);
}

// Show the state in the controls.
function controls() {
  $(`#mode-${state.mode}`).checked = true;
  $("#tiles").checked = state.tiles;
  $("#holes").checked = state.holes;
  $("#link").value = state.link;
  for (const [i, entry] of [...$("#legend").children].entries()) entry.ariaPressed = String(i === state.only);
  $("#legend").classList.toggle("filtered", state.only >= 0);
}

function isolate(label) {
  state.only = label === state.only ? -1 : label;
  controls();
  for (const card of cards) card.repaint();
  cards[state.lead].lead(cards[state.lead].z);
}

function toolbar() {
  $("#modes").append(...Object.entries(MODES).map(([name, { label }]) => {
    const input = element("input", { type: "radio", name: "mode", id: `mode-${name}`, value: name });
    const button = element("label", { htmlFor: input.id, textContent: label }), item = element("span");
    input.addEventListener("change", () => ((state.mode = name), enter()));
    item.append(input, button);
    return item;
  }));
  const drawable = page.ink && cards.every((card) => card.models.every((model) => model.encode));
  $("#mode-draw").disabled = !drawable;
  $("#mode-draw").parentElement.hidden = !drawable;
  const epochs = Math.max(...cards.map((card) => card.model.replay?.epochs ?? 0));
  $("#mode-replay").parentElement.hidden = $("#mode-replay").disabled = !epochs;
  $("#epoch").max = epochs;
  $("#epoch").addEventListener("input", ({ target }) => (MODES.replay.play(false), MODES.replay.epoch(+target.value), changed()));
  $("#play").addEventListener("click", () => MODES.replay.play(!MODES.replay.timer));
  $("#mode-posterior").parentElement.hidden = $("#mode-posterior").disabled = !cards.some((card) => card.model.spreads);
  $("#legend").append(...page.names.map((name, i) => {
    const entry = element("button", { type: "button", textContent: name, ariaPressed: "false", ariaLabel: `only ${className(i)}` });
    entry.style.setProperty("--color", `rgb(${page.colors[i]})`);
    entry.addEventListener("click", () => isolate(i));
    return entry;
  }));
  $("#legend").hidden = !page.classes;
  $("#act").addEventListener("click", () => (state.seed++, MODES[state.mode].act?.(), enter()));
  for (const name of ["tiles", "holes"]) {
    $(`#${name}`).addEventListener("change", ({ target }) => {
      state[name] = target.checked;
      cards.forEach((card) => (card.tile(), card.repaint()));
      changed();
    });
  }
  $("#holes").parentElement.hidden = !page.cards.flat().some((model) => model.map);
  $("#link").addEventListener("change", ({ target }) => ((state.link = target.value), changed()));
  $("#link").parentElement.hidden = cards.length < 2;
  $("#precision").textContent = page.precision.includes("float16")
    ? `Weights in ${page.precision.join(" and ")}, so that all models fit in one file: a pixel's gray level may be off by one in 256.`
    : "Decoders in nearly full precision: a pixel is that of the model.";
}

async function start() {
  await unpack();
  accumulate = await simd().catch(() => accumulate);
  [page.labelsOf, page.pixels] = [array(page.labels), array(page.images)];
  page.count = page.pixels.length / testImage(0).length;
  readTheme();
  for (const models of page.cards) cards.push(new Card(models));
  toolbar();
  drawing.start();
  tour.listen();
  visit(location.hash);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readTheme();
    cards.forEach((card) => (card.tile(), card.redraw()));
  });
  document.body.dataset.ready = "true";
}

start();
