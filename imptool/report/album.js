"use strict";
// Without this script the page shows every image and opens what was made of it: filter and slider are added here.

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);
const items = [...document.querySelectorAll(".pictures li")];
const pairs = (text) => text.split(" ").filter(Boolean).map((pair) => pair.split(":"));
const shares = new Map(items.map((item) => [item, new Map(pairs(item.dataset.shares).map(([key, share]) => [key, Number(share)]))]));
const names = new Map(items.map((item) => [item, item.querySelector("p").title]));

const filter = document.querySelector(".filter");
const chips = [...filter.querySelectorAll(".chip")];
const [all, count] = [filter.querySelector("[type=reset]"), filter.querySelector("output")];
const [search, order, least] = ["[type=search]", ".order", ".least"].map((part) => filter.querySelector(part));
const number = (value) => value.toLocaleString("en");
const share = (item, index) => shares.get(item).get(index) ?? 0;
const has = (item, index) => share(item, index) >= Number(least.value);
let shown = items;

// Images that show all of the chosen classes and whose name has the words; beside each class how many choosing it leaves.
function apply() {
  const chosen = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.class);
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (item) => words.every((word) => names.get(item).toLowerCase().includes(word));
  shown = items.filter((item) => fits(item) && chosen.every((index) => has(item, index)));
  for (const chip of chips) {
    const found = shown.filter((item) => has(item, chip.dataset.class)).length;
    chip.lastElementChild.textContent = number(found);
    chip.disabled = found === 0 && chip.ariaPressed !== "true";
    chip.hidden = !items.some((item) => has(item, chip.dataset.class)) && chip.ariaPressed !== "true";
  }
  order.querySelector("[value=share]").disabled = chosen.length === 0;
  if (chosen.length === 0) order.value = "name";
  const total = (item) => chosen.reduce((sum, index) => sum + share(item, index), 0);
  if (order.value === "share") shown.sort((a, b) => total(b) - total(a));
  const left = new Set(shown);
  for (const item of items) item.hidden = !left.has(item);
  arrange(order.value === "share" ? shown : items);
  all.hidden = chosen.length + words.length === 0;
  const many = `${number(items.length)} image${items.length === 1 ? "" : "s"}`;
  count.textContent = all.hidden ? many : `${number(shown.length)} of ${many}`;
}

// Moving thousands of items takes a while: only where their order changes.
let arranged = items;
function arrange(wanted) {
  if (wanted.every((item, index) => item === arranged[index])) return;
  document.querySelector(".pictures").append(...wanted);
  arranged = wanted;
}

for (const chip of chips) {
  chip.onclick = () => {
    chip.ariaPressed = String(chip.ariaPressed !== "true");
    apply();
  };
}
filter.onreset = () => {
  for (const chip of chips) chip.ariaPressed = "false";
  setTimeout(() => {
    apply(); // once the fields are reset
    search.focus();
  });
};
filter.onsubmit = (event) => event.preventDefault();
for (const field of [search, order, least]) field.oninput = apply;
filter.hidden = false;
apply();

const help = document.querySelector(".help");
filter.querySelector(".ask").onclick = () => help.showModal();
help.onclick = (event) => event.target === help && help.close();
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("[type=search]")) return;
  if (event.key === "?") help.open ? help.close() : help.showModal();
  else if (event.key === "/" && !document.querySelector("dialog[open]")) search.focus();
  else return;
  event.preventDefault();
});

// One image at a time: the image left of the slider, what was made of it right of it.
const viewer = element("dialog", { className: "viewer slides", tabIndex: -1, ariaLabel: "Image and result" });
const [stage, frame] = [element("div", { className: "stage" }), element("div", { className: "frame" })];
const [photograph, parsed] = [element("img", { draggable: false }), element("img", { draggable: false })];
const slider = element("input", { type: "range", min: 0, max: 100, step: "any", value: 50, ariaLabel: "Image or result" });
const about = element("div", { className: "about", ariaLive: "polite" });
const arrow = (label, sign, step) =>
  element("button", { type: "button", ariaLabel: label, textContent: sign, onclick: () => show(shown[at() + step]) });
const [before, after] = [arrow("Previous image", "‹", -1), arrow("Next image", "›", 1)];
const close = element("button", { type: "button", ariaLabel: "Close", textContent: "×", onclick: () => viewer.close() });
frame.append(photograph, parsed);
stage.append(frame);
viewer.append(stage, slider, before, about, after, close);
document.body.append(viewer);
let current = null;

const at = () => shown.indexOf(current);
const opener = (item) => item.querySelector(".open");

function slide(percent) {
  slider.value = Math.min(Math.max(percent, 0), 100);
  frame.style.setProperty("--at", `${slider.value}%`);
  slider.ariaValueText = `image ${Math.round(slider.value)} %, result ${Math.round(100 - slider.value)} %`;
}

const percent = (value) => `${value.toFixed(value < 0.1 ? 2 : 1)} %`;

// What is in the parsed map, and what the detector has found: two results, which may differ.
function legend(title, rows) {
  const line = element("p", { textContent: `${title}: ` });
  const entries = rows.map(([index, text]) => {
    const entry = element("span");
    entry.append(chips[index].querySelector(".swatch").cloneNode(true), ` ${text}`);
    return entry;
  });
  line.append(...(entries.length ? entries : ["none"]));
  return line;
}

function legends(item) {
  const mapped = [...shares.get(item)].filter(([index]) => has(item, index)).sort((a, b) => b[1] - a[1]);
  const lines = [legend("Parsed map", mapped.map(([index, value]) => [index, percent(value)]))];
  const { detected } = item.dataset;
  if (detected !== undefined) lines.push(legend("Detected instances", pairs(detected)));
  return lines;
}

function show(item) {
  if (!item) return;
  current = item;
  const link = opener(item);
  photograph.src = link.dataset.photograph;
  parsed.src = link.href;
  frame.style.setProperty("--shape", link.dataset.shape);
  const name = names.get(item);
  [photograph.alt, parsed.alt] = [name, `${name}, parsed`];
  const title = element("p");
  const index = element("span", { textContent: `${number(at() + 1)} of ${number(shown.length)}` });
  title.append(element("span", { className: "name", textContent: name }), " ", index);
  about.replaceChildren(title, ...legends(item));
  before.disabled = at() === 0;
  after.disabled = at() === shown.length - 1;
  const next = shown[at() + 1];
  if (next) for (const url of [opener(next).dataset.photograph, opener(next).href]) element("img", { src: url });
  if (viewer.open) return;
  slide(50);
  viewer.showModal();
  viewer.focus();
}

const keys = {
  ArrowLeft: () => show(shown[at() - 1]),
  ArrowRight: () => show(shown[at() + 1]),
  ArrowUp: () => slide(Number(slider.value) + 5),
  ArrowDown: () => slide(Number(slider.value) - 5),
  Home: () => show(shown[0]),
  End: () => show(shown.at(-1)),
};
viewer.onkeydown = (event) => {
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
};
slider.oninput = () => slide(Number(slider.value));

function follow(event) {
  const box = frame.getBoundingClientRect();
  slide((100 * (event.clientX - box.left)) / box.width);
}
frame.onpointerdown = (event) => {
  frame.setPointerCapture(event.pointerId);
  follow(event);
};
frame.onpointermove = (event) => frame.hasPointerCapture(event.pointerId) && follow(event);
stage.onclick = (event) => event.target === stage && viewer.close();
viewer.onclose = () => {
  current.scrollIntoView({ block: "nearest" });
  opener(current).focus();
};

document.addEventListener("click", (event) => {
  const link = event.target.closest(".open");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  show(link.closest("li"));
});
