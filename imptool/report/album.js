"use strict";
// Without this script the page shows every photograph and opens what was made of it: filter and slider are added here.

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);
const items = [...document.querySelectorAll(".pictures li")];
const shares = new Map(
  items.map((item) => [item, new Map(item.dataset.shares.split(" ").filter(Boolean).map((pair) => pair.split(":")))]),
);

const filter = document.querySelector(".filter");
const chips = [...filter.querySelectorAll(".chip")];
const [all, count] = [filter.querySelector("[type=reset]"), filter.querySelector("output")];
const number = (value) => value.toLocaleString("en");
let shown = items;

// Photographs that show all of the chosen classes; beside each class how many more choosing it would leave.
function apply() {
  const chosen = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.class);
  shown = items.filter((item) => chosen.every((place) => shares.get(item).has(place)));
  const left = new Set(shown);
  for (const item of items) item.hidden = !left.has(item);
  for (const chip of chips) {
    const found = shown.filter((item) => shares.get(item).has(chip.dataset.class)).length;
    chip.lastElementChild.textContent = number(found);
    chip.disabled = found === 0;
  }
  all.hidden = chosen.length === 0;
  const many = `${number(items.length)} photograph${items.length === 1 ? "" : "s"}`;
  count.textContent = chosen.length ? `${number(shown.length)} of ${many}` : many;
}

for (const chip of chips) {
  chip.hidden = !items.some((item) => shares.get(item).has(chip.dataset.class));
  chip.onclick = () => {
    chip.ariaPressed = String(chip.ariaPressed !== "true");
    apply();
  };
}
filter.onreset = () => {
  for (const chip of chips) chip.ariaPressed = "false";
  apply();
};
filter.onsubmit = (event) => event.preventDefault();
filter.hidden = false;
apply();

// One photograph at a time: the photograph left of the slider, what was made of it right of it.
const viewer = element("dialog", { className: "viewer slides", tabIndex: -1, ariaLabel: "Photograph and result" });
const [stage, frame] = [element("div", { className: "stage" }), element("div", { className: "frame" })];
const [photograph, parsed] = [element("img", { draggable: false }), element("img", { draggable: false })];
const slider = element("input", { type: "range", min: 0, max: 100, step: "any", value: 50, ariaLabel: "Photograph or result" });
const about = element("p", { className: "about" });
const arrow = (label, sign, step) =>
  element("button", { type: "button", ariaLabel: label, textContent: sign, onclick: () => show(shown[at() + step]) });
const [before, after] = [arrow("Photograph before", "‹", -1), arrow("Photograph after", "›", 1)];
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
}

function legend(item) {
  const classes = [...shares.get(item)].sort((a, b) => b[1] - a[1]);
  return classes.map(([place, share]) => {
    const entry = element("span");
    entry.append(chips[place].querySelector(".swatch").cloneNode(true), ` ${share} %`);
    return entry;
  });
}

function show(item) {
  if (!item) return;
  current = item;
  const link = opener(item);
  photograph.src = link.dataset.photograph;
  parsed.src = link.href;
  frame.style.setProperty("--shape", link.dataset.shape);
  const name = item.querySelector("p").title;
  [photograph.alt, parsed.alt] = [name, `${name}, parsed`];
  const place = element("span", { textContent: `${number(at() + 1)} of ${number(shown.length)}` });
  about.replaceChildren(element("span", { className: "name", textContent: name }), place, ...legend(item));
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
