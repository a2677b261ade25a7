
"use strict";
// Figures of the class `zoom`: wheel, drag, pinch, buttons and keys move a window over the picture.
for (const figure of document.querySelectorAll("figure.zoom")) {
  const svg = figure.querySelector("svg");
  const said = figure.querySelector("output");
  const whole = svg.viewBox.baseVal;
  const full = { x: whole.x, y: whole.y, w: whole.width, h: whole.height };
  const grid = figure.dataset.grid ? JSON.parse(figure.dataset.grid) : null;
  const most = 80;
  let view = { ...full };
  figure.classList.add("live");

  const between = (low, value, high) => Math.min(Math.max(low, value), Math.max(low, high));

  function show(next) {
    const w = between(full.w / most, next.w, full.w);
    const h = w * full.h / full.w;
    view = { w, h, x: between(full.x, next.x, full.x + full.w - w), y: between(full.y, next.y, full.y + full.h - h) };
    svg.setAttribute("viewBox", [view.x, view.y, view.w, view.h].map(v => +v.toFixed(3)).join(" "));
    figure.classList.toggle("moved", w < full.w);
  }

  function zoom(factor, at) {
    const w = between(full.w / most, view.w / factor, full.w);
    const share = w / view.w;
    show({ w, x: at.x - (at.x - view.x) * share, y: at.y - (at.y - view.y) * share });
  }

  const middle = () => ({ x: view.x + view.w / 2, y: view.y + view.h / 2 });

  function point(event) {
    const box = svg.getBoundingClientRect();
    return {
      x: view.x + (event.clientX - box.left) / box.width * view.w,
      y: view.y + (event.clientY - box.top) / box.height * view.h,
    };
  }

  function named(blocks, index) {
    for (const [name, size] of blocks) {
      if (index < size) return size > 1 ? name + "[" + (index + 1) + "]" : name;
      index -= size;
    }
    return String(index);
  }

  function tell(at) {
    if (!grid) return;
    const [left, top, width, height] = grid.box;
    const row = Math.floor((at.y - top) / height * grid.size[0]);
    const col = Math.floor((at.x - left) / width * grid.size[1]);
    const inside = row >= 0 && col >= 0 && row < grid.size[0] && col < grid.size[1];
    if (!inside) {
      said.textContent = "";
      return;
    }
    let text = named(grid.rows, row) + " " + grid.words[0] + " " + named(grid.cols, col);
    if (grid.values) text += " " + grid.words[1] + " " + (grid.values[row * grid.size[1] + col] || "0");
    said.textContent = text;
  }

  svg.addEventListener("wheel", event => {
    const out = event.deltaY > 0;
    if (out && view.w >= full.w) return;  // the page scrolls on
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1);
    zoom(Math.exp(-between(-240, pixels, 240) / 400), point(event));
    tell(point(event));
  }, { passive: false });

  const held = new Map();
  svg.addEventListener("pointerdown", event => {
    held.set(event.pointerId, event);
    if (held.size === 2 || view.w < full.w) {
      svg.setPointerCapture(event.pointerId);
      figure.classList.add("dragged");
    }
  });
  svg.addEventListener("pointermove", event => {
    const before = held.get(event.pointerId);
    if (before && held.size === 2) {
      const [other] = [...held.values()].filter(one => one.pointerId !== event.pointerId);
      const apart = one => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoom(apart(event) / Math.max(1, apart(before)), point(other));
    } else if (before && view.w < full.w) {
      const from = point(before), to = point(event);
      show({ w: view.w, x: view.x + from.x - to.x, y: view.y + from.y - to.y });
    }
    if (before) held.set(event.pointerId, event);
    tell(point(event));
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    svg.addEventListener(name, event => {
      held.delete(event.pointerId);
      if (!held.size) figure.classList.remove("dragged");
    });
  }
  svg.addEventListener("pointerleave", () => { if (said) said.textContent = ""; });
  svg.addEventListener("dblclick", event => zoom(2, point(event)));

  const acts = {
    in: () => zoom(1.5, middle()),
    out: () => zoom(1 / 1.5, middle()),
    whole: () => show(full),
    left: () => show({ ...view, x: view.x - view.w / 6 }),
    right: () => show({ ...view, x: view.x + view.w / 6 }),
    up: () => show({ ...view, y: view.y - view.h / 6 }),
    down: () => show({ ...view, y: view.y + view.h / 6 }),
  };
  const keys = {
    "+": "in", "=": "in", "-": "out", "0": "whole", Escape: "whole",
    ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
  };
  figure.addEventListener("keydown", event => {
    const act = keys[event.key];
    const moves = event.key.startsWith("Arrow");
    if (!act || event.ctrlKey || event.metaKey || event.altKey || (moves && view.w >= full.w)) return;
    event.preventDefault();
    acts[act]();
    tell(middle());
  });
  for (const button of figure.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      acts[button.dataset.do]();
      tell(middle());
    });
  }
}
// What is folded is printed, too.
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details")) one.open = true;
});
