// Makes and changes elements. Every text becomes a text node: nothing here reads markup, so a name
// or a message that looks like markup is shown as what it is.

// An element with attributes and children; a child that is null is left out. Of `on` each entry
// is a listener, as in {click: stop}.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== false) {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== ""));
  return element;
}

// A text that may be said again and again: the page is touched only when it differs.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Brings the children of `parent` in line with a list. The elements of what stays are kept, and
// with them the keyboard's focus; `make` makes new ones, `update` is called for all.
export function sync(parent, items, keyOf, make, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    const element = before.get(key) ?? make(item);
    element.dataset.key = key;
    before.delete(key);
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of before.values()) element.remove();
}

// A table: `columns` are {title, number?}, `rows` lists of cells. On a narrow screen each row
// becomes a block, in which `data-label` says what a cell is.
export function table(caption, columns, rows) {
  return h("table", { class: "stack" },
    caption ? h("caption", {}, caption) : null,
    head(columns), h("tbody", {}, rows.map((cells) => row(columns, cells))));
}

export function head(columns) {
  const cell = ({ title, number }) => h("th", { scope: "col", class: number ? "number" : null }, title);
  return h("thead", {}, h("tr", {}, columns.map(cell)));
}

export function row(columns, cells) {
  return h("tr", {}, cells.map((cell, place) => {
    const { title, number } = columns[place];
    const attributes = { "data-label": title, class: number ? "number" : null };
    return place ? h("td", attributes, cell) : h("th", { scope: "row" }, cell);
  }));
}

// A list of facts: pairs of a word and what there is; those without anything are left out.
export function facts(pairs) {
  const there = pairs.filter(([, value]) => value !== null && value !== "");
  return h("dl", { class: "facts" },
    there.map(([word, value]) => h("div", {}, h("dt", {}, word), h("dd", {}, value))));
}

export const code = (text) => h("code", {}, text);
export const muted = (text) => h("span", { class: "muted" }, text);

// Links lead to places of this page; what is in a name cannot make them anything else.
export const place = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
export const modelLink = (name) => h("a", { href: place("model", name) }, name);

export function names(list) {
  return list.flatMap((name, number) => (number ? [", ", modelLink(name)] : [modelLink(name)]));
}

// Says something to those who listen to the page instead of looking at it.
export function announce(text) {
  const region = document.getElementById("said");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);  // the same words twice are news, too
}

// Sizes and times in the forms of the command line.

export function size(bytes) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return `${bytes.toFixed(unit && bytes < 10 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function when(text) {
  const date = new Date(text);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return h("time", { datetime: text }, `${day} ${two(date.getHours())}:${two(date.getMinutes())}`);
}

export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
