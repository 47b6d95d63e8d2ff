// Files of this machine, sent to the server for a build. A folder stays a folder: the Modelfile
// names it as on the command line, FROM ./folder.

import { send } from "./api.js";
import { announce, count, h, say, size, sync } from "./dom.js";

const MOST = 1024;  // files of one request

// `changed` is called when there are others; `use` gets the value that FROM or ADAPTER would have.
export function fileList(known, changed, use) {
  let items = known;  // {name, folder, parts: [{name, size, digest}], sent, error, stop}
  const problem = h("p", { class: "problem", role: "alert" });
  const list = h("ul", { class: "files", "aria-label": "Files for this build" });
  const show = () => {
    list.hidden = !items.length;
    sync(list, items, (item) => item.name, (item) => row(item, take, use), update);
  };
  const take = (item) => {
    item.stop?.abort();
    items = items.filter((each) => each !== item);
    show();
    changed();
  };
  const add = async (found) => {
    say(problem, "");
    const fresh = grouped(found);
    const total = [...items, ...fresh].reduce((sum, item) => sum + item.parts.length, 0);
    if (total > MOST) return say(problem, `${count(total, "file")} are too many: at most ${MOST} belong to one build.`);
    items = [...items.filter((item) => !fresh.some((each) => each.name === item.name)), ...fresh];
    show();
    for (const item of fresh) await sendAll(item, show);
    const there = fresh.filter((item) => items.includes(item) && isThere(item));
    changed();
    if (there.length) announce(`${there.map((item) => item.name).join(", ")}: on the server`);
    for (const item of there) use(item, false);
    return null;
  };
  const files = picker("files", "Files", add, { multiple: true });
  const folder = picker("folder", "A folder", add, { webkitdirectory: true });
  const note = h("p", { class: "note" }, "A GGUF file, or the folder of a checkpoint or an adapter. What no build uses goes after a day.");
  show();
  return {
    element: h("fieldset", { class: "sending" }, h("legend", {}, "Files of this computer"),
      h("div", { class: "fields" }, files, folder), note, problem, list),
    named: () => Object.fromEntries(items.filter(isThere).flatMap((item) => item.parts.map((part) => [part.name, part.digest]))),
    draft: () => items.filter(isThere).map(({ name, folder, parts }) => ({ name, folder, parts: parts.map(({ file, ...part }) => part) })),
    waiting: () => items.some((item) => !isThere(item) && !item.error),
    left: () => items.forEach((item) => item.stop?.abort()),
  };
}

const isThere = (item) => item.parts.every((part) => part.digest);
const sizeOf = (item) => item.parts.reduce((sum, part) => sum + part.size, 0);

function picker(id, word, add, attributes) {
  const input = h("input", { type: "file", id: `send-${id}`, ...attributes });
  input.addEventListener("change", () => {
    const found = [...input.files];
    input.value = "";
    if (found.length) add(found);
  });
  return h("div", { class: "field" }, h("label", { for: input.id }, word), input);
}

// Files by their folder, without what is hidden in it.
function grouped(found) {
  const items = new Map();
  for (const file of found) {
    const path = file.webkitRelativePath || file.name;
    if (path.split("/").slice(1).some((part) => part.startsWith("."))) continue;
    const [name, ...inside] = path.split("/");
    const item = items.get(name) ?? { name, folder: inside.length > 0, parts: [], sent: 0, error: "" };
    item.parts.push({ name: path, size: file.size, file });
    items.set(name, item);
  }
  return [...items.values()];
}

async function sendAll(item, show) {
  item.stop = new AbortController();
  let before = 0;
  try {
    for (const part of item.parts) {
      const told = (done) => {
        item.sent = before + done;
        show();
      };
      part.digest = (await send("/api/mbuild/uploads", part.file, told, item.stop.signal)).digest;
      before += part.size;
      told(0);
    }
  } catch (error) {
    if (error.name !== "AbortError") item.error = error.message;
  }
  show();
}

function row(item, take, use) {
  const parts = {
    bar: h("progress", { "aria-label": `Sending ${item.name}` }), said: h("span", { class: "note" }),
    use: h("button", { type: "button", "aria-label": `Use ${item.name}`, on: { click: () => use(item, true) } }, "Use"),
  };
  const element = h("li", {}, h("div", { class: "line" }, h("strong", {}, item.name), parts.use,
    h("button", { type: "button", "aria-label": `Take ${item.name} out`, on: { click: () => take(item) } }, "Take out")),
  parts.bar, parts.said);
  element.parts = parts;
  return element;
}

function update(element, item) {
  const { bar, said, use } = element.parts;
  const whole = sizeOf(item), there = isThere(item);
  bar.hidden = there || Boolean(item.error);
  bar.max = whole || 1;
  bar.value = item.sent ?? 0;
  use.disabled = !there;
  const what = item.folder ? `${count(item.parts.length, "file")}, ${size(whole)}` : size(whole);
  say(said, item.error || (there ? what : `${size(item.sent ?? 0)} of ${what}`));
  said.className = item.error ? "problem" : "note";
}
