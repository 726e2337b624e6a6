"use strict";

// Pointer, wheel and keys on a plane: they move its point or its view.

function listen(card) {
  const { plane, pointers } = card, middle = () => {
    const [a, b] = [...pointers.values()];
    return { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2, apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) };
  };
  plane.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId), panning = before?.panning;
    if (pointers.size === 2 && before) {
      const from = middle();
      pointers.set(event.pointerId, { ...before, clientX: event.clientX, clientY: event.clientY });
      const to = middle();
      card.pan(to.clientX - from.clientX, to.clientY - from.clientY);
      card.zoom(to.apart / from.apart, card.spot(to));
    } else if (panning) {
      card.pan(event.clientX - before.clientX, event.clientY - before.clientY);
      pointers.set(event.pointerId, { panning, clientX: event.clientX, clientY: event.clientY });
    } else {
      if (before) pointers.set(event.pointerId, { clientX: event.clientX, clientY: event.clientY });
      if (!MODES[state.mode].still && (!card.held || event.buttons)) card.lead(card.pointed(event));
    }
  });
  plane.addEventListener("pointerdown", (event) => {
    plane.setPointerCapture(event.pointerId);
    const panning = event.shiftKey || event.button === 1;
    pointers.set(event.pointerId, { panning, clientX: event.clientX, clientY: event.clientY });
    if (panning || pointers.size > 1 || MODES[state.mode].still) return;
    const { click } = MODES[state.mode], hold = !click && event.pointerType === "mouse" && !card.held;
    card.lead(card.pointed(event), hold);
    click?.(card);
  });
  for (const end of ["pointerup", "pointercancel"]) plane.addEventListener(end, (event) => pointers.delete(event.pointerId));
  plane.addEventListener("wheel", (event) => {
    const factor = Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015));
    if (factor < 1 && card.scale <= 1.001) return; // all is in view: the page may scroll
    event.preventDefault();
    if (factor < 1 && card.scale * factor <= 1) card.look(card.frame);
    else card.zoom(factor, card.spot(event));
    changed();
  }, { passive: false });
  plane.addEventListener("keydown", (event) => press(card, event));
  $(".zoom", card.section).addEventListener("click", ({ target }) => press(card, { key: target.closest("button")?.value, preventDefault() {} }));
}

function press(card, event) {
  const moves = !MODES[state.mode].still, arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
  const step = event.shiftKey ? 0.1 : 0.01, [x, y] = card.project(card.z);
  const [width, height] = card.view.map(([low, high]) => step * (high - low));
  if (arrow && moves) card.lead(card.lift(x + arrow[0] * width, y + arrow[1] * height), true);
  else if (event.key === "Home" && moves) card.lead([...card.model.center], true);
  else if (event.key === "+" || event.key === "=") card.zoom(1.5);
  else if (event.key === "-") card.zoom(1 / 1.5);
  else if (event.key === "0") card.look(card.frame);
  else if (moves && (event.key === "Enter" || event.key === " ")) {
    const { click } = MODES[state.mode];
    card.lead(card.z, !click && !card.held);
    click?.(card);
  } else return;
  event.preventDefault();
  changed();
}
