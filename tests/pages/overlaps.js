// The pairs of texts that lie over one another.
const boxes = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  if (!node.data.trim() || node.parentElement.closest("script, style, option")) continue;
  if (node.parentElement instanceof SVGTSpanElement || node.parentElement.closest("svg title, svg desc")) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects()) {
    if (box.width > 1 && box.height > 1) boxes.push([node.data.trim().slice(0, 30), box]);
  }
}
for (const text of document.querySelectorAll("svg text")) {
  if (text.querySelector("tspan")) boxes.push([text.textContent.slice(0, 30), text.getBoundingClientRect()]);
}
const over = [];
for (let i = 0; i < boxes.length; i++) {
  for (let j = 0; j < i; j++) {
    const [one, a] = boxes[i], [two, b] = boxes[j];
    const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (w > 1.5 && h > 0.35 * Math.min(a.height, b.height)) over.push(one + " | " + two);
  }
}
return over;
