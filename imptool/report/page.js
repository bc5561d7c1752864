"use strict";
// The page is whole without this script: it adds copying, sorting and looking at one picture after another.

const element = (name, properties = {}) => Object.assign(document.createElement(name), properties);

for (const line of document.querySelectorAll(".steps pre")) {
  if (!navigator.clipboard) break;
  const button = element("button", { type: "button", className: "copy", textContent: "Copy" });
  button.onclick = async () => {
    await navigator.clipboard.writeText(line.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  line.after(button);
}

// Numbers start with the largest, names with A; what is absent stays last either way.
function sortBy(heading) {
  const body = heading.closest("table").tBodies[0];
  const cell = (row) => row.cells[heading.cellIndex];
  const words = (row) => cell(row).querySelector("data")?.value ?? cell(row).textContent.trim();
  const numbers = heading.cellIndex > 0 && [...body.rows].every((row) => /^([+−-]?[\d,.]+%?)?$/.test(words(row)));
  const falling = numbers ? heading.ariaSort !== "descending" : heading.ariaSort === "ascending";
  const number = (text) => Number(text.replace(/[,%]/g, "").replace("−", "-"));
  const compare = (a, b) => (numbers ? number(a) - number(b) : a.localeCompare(b, undefined, { numeric: true }));
  const rows = [...body.rows].sort((first, second) => {
    const [a, b] = [words(first), words(second)];
    if (!a || !b) return Boolean(b) - Boolean(a);
    return falling ? compare(b, a) : compare(a, b);
  });
  for (const other of heading.parentNode.cells) other.ariaSort = null;
  heading.ariaSort = falling ? "descending" : "ascending";
  body.append(...rows);
}

for (const heading of document.querySelectorAll("thead th")) {
  const button = element("button", { type: "button", onclick: () => sortBy(heading) });
  button.append(...heading.childNodes);
  heading.append(button);
}

// A picture without a file has no link to be opened by: a button, which keys reach as well.
for (const frame of document.querySelectorAll("span.full")) {
  const button = element("button", { type: "button", className: "full" });
  button.append(...frame.childNodes);
  frame.replaceWith(button);
}

const pictures = [...document.querySelectorAll(".full")];
const viewer = element("dialog", { className: "viewer", tabIndex: -1 });
const [image, words] = [element("img"), element("p")];
const arrow = (label, sign, step) =>
  element("button", { type: "button", ariaLabel: label, textContent: sign, onclick: () => show(pictures[shown + step]) });
const [before, after] = [arrow("Previous picture", "‹", -1), arrow("Next picture", "›", 1)];
const close = element("button", { type: "button", ariaLabel: "Close", textContent: "×" });
viewer.append(image, before, words, after, close);
document.body.append(viewer);
let shown = 0;

function show(picture) {
  if (!picture) return;
  shown = pictures.indexOf(picture);
  image.src = picture.href ?? picture.firstElementChild.src;
  image.alt = words.textContent = picture.firstElementChild.alt;
  before.disabled = shown === 0;
  after.disabled = shown === pictures.length - 1;
  if (viewer.open) return;
  viewer.showModal();
  viewer.focus(); // not the first arrow: the keys walk without it
}

// The same kind of picture of the example above or below.
function inExample(side) {
  const example = pictures[shown].closest("article");
  const place = [...(example?.querySelectorAll(".full") ?? [])].indexOf(pictures[shown]);
  return example?.[side]?.querySelectorAll(".full")[place];
}

const keys = {
  ArrowLeft: () => pictures[shown - 1],
  ArrowRight: () => pictures[shown + 1],
  ArrowUp: () => inExample("previousElementSibling"),
  ArrowDown: () => inExample("nextElementSibling"),
};

viewer.onkeydown = (event) => {
  if (!(event.key in keys)) return;
  event.preventDefault();
  show(keys[event.key]());
};
viewer.onclick = (event) => [viewer, image, close].includes(event.target) && viewer.close();
viewer.onclose = () => pictures[shown].focus();

document.addEventListener("click", (event) => {
  const picture = event.target.closest(".full");
  if (!picture || (picture.href && (event.ctrlKey || event.metaKey || event.shiftKey || event.button))) return;
  event.preventDefault();
  show(picture);
});
