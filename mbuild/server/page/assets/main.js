// The page's frame: which view is shown, the sign-in, and what the stream of changes brings.

import { get, Refused, token } from "./api.js";
import { buildView } from "./build.js";
import { buildsView } from "./builds.js";
import { diskView } from "./disk.js";
import { announce, h, say } from "./dom.js";
import { editView } from "./edit.js";
import { follow, listen, rest } from "./live.js";
import { modelView, modelsView } from "./models.js";
import { signInView } from "./signin.js";

// Each view is made from the rest of the address and gives {title, element}, and if it wants to
// hear of changes `heard`, if it follows one build `build`, `left` for when it goes, and `focus`,
// the element that gets it in place of the heading.
const VIEWS = {
  builds: buildsView,
  build: buildView,
  models: modelsView,
  model: modelView,
  edit: editView,
  disk: diskView,
};
const SECTIONS = { build: "builds", model: "models" };  // whose link in the bar a view belongs to

const main = document.getElementById("main");
let shown = null;
let latest = {};  // the last lists, for a view that opens between two changes
let signedOut = false;

async function open() {
  const [name = "", ...parts] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const key = Object.hasOwn(VIEWS, name) ? name : "builds";
  await show(() => VIEWS[key](...parts), SECTIONS[key] ?? key);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;  // an address that somebody typed
  }
}

// Puts a view on the page and the focus on its heading, so that a screen reader begins there.
async function show(make, section) {
  const turn = (show.turn = (show.turn ?? 0) + 1);
  mark(section);
  let view;
  try {
    view = await make();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return turn === show.turn && signIn();
    view = failure(error);
  }
  if (turn !== show.turn) return null;  // another view was asked for meanwhile
  shown?.left?.();
  shown = view;
  main.replaceChildren(view.element);
  document.title = `${view.title} · mbuild`;
  const heading = main.querySelector("h1");
  heading.tabIndex = -1;
  if (view.focus) view.focus.focus();
  else if (show.turn > 1) heading.focus();
  if (latest.builds) view.heard?.(latest);
  if (!signedOut) follow(view.build ?? "");
  return null;
}

function mark(section) {
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#/${section}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function failure(error) {
  const retry = h("button", { type: "button", on: { click: open } }, "Try again");
  const text = error instanceof Refused ? error.message : `This page has a fault: ${error.message}`;
  const element = h("div", {}, h("h1", {}, "That did not work"),
    h("p", { class: "problem", role: "alert" }, text), h("p", {}, retry));
  return { title: "That did not work", element };
}

function signIn() {
  signedOut = true;
  document.querySelector("nav").hidden = true;
  rest();
  say(document.getElementById("link"), "");
  document.getElementById("leave").hidden = true;
  return show(() => signInView(Boolean(token.get()), enter), "");
}

async function enter(text) {
  token.set(text);
  await about();  // throws where the token is not the right one
  signedOut = false;
  latest = {};
  await open();
}

async function about() {
  const found = await get("/api/mbuild/about");
  say(document.getElementById("version"), `mbuild ${found.version}`);
  document.querySelector("nav").hidden = false;
  document.getElementById("leave").hidden = !found.token;
  document.getElementById("docs").hidden = found.token;  // a link sends no token
}

function heard(line) {
  if (signedOut) return;
  if (line.error?.status === 401) {
    signIn();
    return;
  }
  say(document.getElementById("link"), line.link === "live" ? "Live" : "Not connected");
  document.getElementById("link").dataset.link = line.link;
  if (line.builds) tellEnds(line.builds);
  latest = { ...latest, ...(line.builds ? { builds: line.builds } : {}) };
  shown?.heard?.(line);
}

// Builds end while somebody looks elsewhere: a screen reader hears of it.
function tellEnds(builds) {
  const ran = new Set((latest.builds?.running ?? []).map((build) => build.id));
  for (const build of builds.past.filter((each) => ran.has(each.id))) {
    announce(`${build.names.join(", ") || "A build"}: ${build.state}`);
  }
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();  // the address is that of the view
  main.focus();
});
document.getElementById("leave").addEventListener("click", () => {
  token.drop();
  signIn();
});
addEventListener("hashchange", open);
listen(heard);
about().then(open, (error) => (error.status === 401 ? signIn() : show(() => { throw error; }, "")));
