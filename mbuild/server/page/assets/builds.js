// The list of builds: those that run, as they run, and the last ones of the log.

import { get, remove } from "./api.js";
import { announce, count, duration, h, muted, place, row, say, size, sync, head, when } from "./dom.js";
import { serverNow } from "./live.js";

const COLUMNS = [
  { title: "Model" }, { title: "Result" }, { title: "Began" },
  { title: "Took", number: true }, { title: "Steps", number: true }, { title: "Written", number: true },
];

export const nameOf = (build) => build.names.join(", ") || "Models without names";

export function badge(state) {
  return h("strong", { class: `badge ${state}` }, state);
}

export async function buildsView() {
  const running = h("ul", { class: "cards" });
  const idle = h("p", { class: "empty" }, "Nothing is being built.");
  const past = h("tbody");
  const log = h("table", { class: "stack builds" }, head(COLUMNS), past);
  const none = h("p", { class: "empty" },
    "Nothing was built in this store yet. ", h("a", { href: place("edit") }, "Build a model"), ".");
  const element = h("div", {},
    h("div", { class: "title" }, h("h1", {}, "Builds"),
      h("a", { class: "button primary", href: place("edit") }, "New build")),
    h("section", { "aria-labelledby": "now" }, h("h2", { id: "now" }, "Now"), idle, running),
    h("section", { "aria-labelledby": "past" }, h("h2", { id: "past" }, "Past"), none, log));

  const fill = (builds) => {
    idle.hidden = builds.running.length > 0;
    running.hidden = !idle.hidden;
    sync(running, builds.running, (build) => build.id, card, updateCard);
    none.hidden = builds.past.length > 0;
    log.hidden = !none.hidden;
    // A build that has ended does not change any more.
    sync(past, builds.past, (build) => build.id, pastRow, () => {});
  };
  fill(await get("/api/mbuild/builds"));
  const clock = setInterval(() => [...running.children].forEach(tick), 1000);
  return {
    title: "Builds",
    element,
    heard: (line) => line.builds && fill(line.builds),
    left: () => clearInterval(clock),
  };
}

function card(build) {
  const parts = {
    state: badge(build.state),
    bar: h("progress", { "aria-label": `Steps of ${nameOf(build)}` }),
    done: h("span"),
    took: h("span", { class: "took" }),
    stop: stopButton(build),
    note: h("p", { class: "note" },
      "Another process builds it. Its steps are shown here; it is stopped where it runs, with Ctrl-C."),
  };
  const element = h("li", { class: "card" },
    h("div", { class: "line" },
      h("span", {}, h("a", { class: "name", href: place("build", build.id) }, nameOf(build)), " ", parts.state), parts.stop),
    parts.bar, h("p", { class: "note" }, parts.done, parts.took), parts.note);
  element.parts = parts;
  return element;
}

function updateCard(element, build) {
  const { state, bar, done, stop, note } = element.parts;
  state.className = `badge ${build.state}`;
  say(state, build.state);
  if (build.steps) {
    bar.max = build.steps;
    bar.value = build.finished;
  } else {
    bar.removeAttribute("value");  // nobody knows yet how many there are
  }
  say(done, build.steps ? `${build.finished} of ${count(build.steps, "step")} done` : waitText(build));
  stop.hidden = !build.here;
  stop.disabled = build.state === "stopping";
  note.hidden = build.here;
  element.began = Date.parse(build.began);
  tick(element);
}

const waitText = (build) => (build.state === "waiting" ? "Waits for its turn" : "Looks at its sources");

function tick(element) {
  const seconds = Math.max(0, Math.round((serverNow() - element.began) / 1000));
  say(element.parts.took, ` · ${span(seconds)}`);
}

// How long something has taken so far: no fractions, which would only flicker.
export const span = (seconds) => `for ${seconds < 60 ? `${seconds} s` : duration(seconds)}`;

export function stopButton(build) {
  const stop = async () => {
    button.disabled = true;
    try {
      await remove(`/api/mbuild/builds/${encodeURIComponent(build.id)}`);
      announce(`${nameOf(build)} is being stopped`);
    } catch (error) {
      announce(error.message);
      button.disabled = false;
    }
  };
  const label = `Stop the build of ${nameOf(build)}`;
  const button = h("button", { type: "button", class: "danger", "aria-label": label, on: { click: stop } }, "Stop");
  return button;
}

function pastRow(build) {
  const steps = build.steps ? `${build.ran ?? 0} run, ${build.cached ?? 0} cached` : muted("none");
  return row(COLUMNS, [
    h("a", { class: "name", href: place("build", build.id) }, nameOf(build)),
    h("span", {}, badge(build.state), build.error ? h("span", { class: "reason" }, ` ${firstLine(build.error)}`) : null),
    when(build.began), duration(build.seconds), steps, size(build.written ?? 0),
  ]);
}

const firstLine = (text) => text.split("\n", 1)[0];
