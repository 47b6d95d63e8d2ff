// The server's picture of a build: a tree of elements, of which only those of a drawing are made.

const SVG = "http://www.w3.org/2000/svg";
const ELEMENTS = new Set(["svg", "g", "rect", "path", "text", "title", "desc"]);
const ATTRIBUTES = new Set([
  "class", "role", "aria-labelledby", "id", "width", "height", "viewBox", "x", "y", "rx", "d", "transform",
]);

export function drawing(tree) {
  const picture = made(tree);
  // On a wide screen it may shrink a little; on a narrow one it scrolls.
  picture.style.setProperty("--wide", `${Number(picture.getAttribute("width"))}px`);
  return picture;
}

function made([name, attributes, children]) {
  if (!ELEMENTS.has(name)) return document.createTextNode("");
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (ATTRIBUTES.has(key)) element.setAttribute(key, value);
  }
  element.append(...children.map((child) => (Array.isArray(child) ? made(child) : child)));
  return element;
}
