// One build: how far each step is, the graph, the log; when it has ended also its report.

import { get } from "./api.js";
import { badge, nameOf, span, stopButton } from "./builds.js";
import { announce, code, duration, facts, h, head, modelLink, muted, place, row, say, size, sync, when } from "./dom.js";
import { drawing } from "./graph.js";
import { serverNow } from "./live.js";

const WORDS = {
  cached: "cached", running: "running", ran: "ran", waited: "not begun", failed: "did not finish",
};
const COLUMNS = [{ title: "Step" }, { title: "State" }, { title: "Took", number: true }, { title: "Why" }];
const RUNS = ["running", "waiting", "stopping"];

export async function buildView(identity = "") {
  const path = `/api/mbuild/builds/${encodeURIComponent(identity)}`;
  const { build, graph } = await get(path);
  const parts = skeleton(build);
  let now = build;
  const update = (next) => {
    if (RUNS.includes(now.state) && !RUNS.includes(next.state)) announce(`${nameOf(next)}: ${next.state}`);
    now = next;
    fill(parts, next);
  };
  fill(parts, build);
  draw(parts, graph);
  const clock = setInterval(() => tick(parts, now), 1000);
  return {
    title: nameOf(build),
    element: parts.element,
    build: identity,
    heard: (line) => {
      if (line.build) update(line.build);
      if (line.graph) draw(parts, line.graph);
    },
    left: () => clearInterval(clock),
  };
}

function skeleton(build) {
  const parts = {
    state: badge(build.state), took: h("span", { class: "took" }), stop: stopButton(build),
    report: h("a", { class: "button", target: "_blank", rel: "noopener" }, "Report", h("span", { class: "unseen" }, " (in a new tab)")),
    error: h("pre", { class: "failure", tabindex: "0" }), facts: h("div"), note: h("p", { class: "note" },
      "Another process builds this model, so its progress in bytes and its log are not known here, and it is stopped where it runs, with Ctrl-C."),
    graph: h("div", { class: "scroll graph", role: "region", "aria-label": "The graph of the build's steps", tabindex: "0" }),
    steps: h("tbody"), log: h("ol", { class: "log", tabindex: "0", "aria-label": "Log" }),
  };
  parts.graphPart = section("Graph", parts.graph);
  parts.stepsPart = section("Steps", h("table", { class: "stack steps" }, head(COLUMNS), parts.steps));
  parts.logPart = section("Log", parts.log);
  parts.element = h("div", {},
    h("div", { class: "title" }, h("h1", {}, nameOf(build)), h("p", { class: "actions" }, parts.stop, parts.report)),
    h("p", { class: "result" }, parts.state, parts.took), parts.error, parts.note, parts.facts,
    parts.graphPart, parts.stepsPart, parts.logPart);
  return parts;
}

function section(title, ...children) {
  const id = title.toLowerCase();
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

function fill(parts, build) {
  const runs = RUNS.includes(build.state);
  parts.state.className = `badge ${build.state}`;
  say(parts.state, build.state);
  parts.stop.hidden = !build.here;
  parts.stop.disabled = build.state === "stopping";
  parts.report.hidden = !build.report;
  if (build.report) parts.report.href = build.report;
  parts.error.hidden = !build.error;
  say(parts.error, build.error);
  parts.note.hidden = !runs || build.here;
  parts.facts.replaceChildren(factsOf(build));
  parts.stepsPart.hidden = !build.of.length;
  sync(parts.steps, build.of.map((step, n) => ({ ...step, n })), (step) => step.n, stepRow, (element, step) =>
    updateStep(element, step, build));
  parts.logPart.hidden = !build.log.length;
  fillLog(parts.log, build.log);
  tick(parts, build);
}

function factsOf(build) {
  return facts([
    ["Began", when(build.began)],
    ["Asked by", build.from === "command line" ? h("span", {}, "the command line, ", code(build.modelfile)) : "a request to the API"],
    ["Options", build.options.length ? build.options.flatMap((option) => [code(option), " "]) : ""],
    ["Models", build.models.length ? build.models.map((model) => h("div", {}, model.id ? modelLink(model.name) : model.name,
      " ", model.id ? code(model.id.slice(0, 12)) : muted(RUNS.includes(build.state) ? "" : "not named"))) : ""],
  ]);
}

function stepRow(step) {
  const parts = { state: h("span", { class: "look" }), bar: h("progress"), part: h("span"), took: h("span"), why: h("span") };
  const label = h("span", {}, muted(`${step.n + 1} `), step.label, step.models.map((name) => [" ", h("span", { class: "name" }, name)]));
  parts.bar.setAttribute("aria-label", `Progress of ${step.label}`);
  const element = row(COLUMNS, [label, h("span", {}, parts.state, parts.bar, parts.part), parts.took, parts.why]);
  element.parts = parts;
  return element;
}

function updateStep(element, step, build) {
  const { state, bar, part, took, why } = element.parts;
  state.className = `look ${step.look}`;
  say(state, WORDS[step.look] ?? step.look);
  const [done, total] = build.progress[step.n + 1] ?? [0, 0];
  bar.hidden = !(step.look === "running" && total);
  if (total) {
    bar.max = total;
    bar.value = done;
  }
  say(part, bar.hidden ? "" : ` ${size(done)} of ${size(total)}`);
  const ended = step.look === "ran" || step.look === "failed";
  say(took, ended ? `${duration(step.seconds)}${step.written ? `, ${size(step.written)}` : ""}` : "");
  say(why, step.fetched ? `${size(step.fetched)} from the shared cache` : step.reasons.join("; "));
}

// New lines are added at the end, and stay in view for who reads there.
function fillLog(list, log) {
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  sync(list, log.map(([seconds, text], n) => ({ seconds, text, n })), (line) => `${line.n} ${line.text}`,
    (line) => h("li", {}, muted(`${line.seconds.toFixed(1)} s `), line.text), () => {});
  if (follows) list.scrollTop = list.scrollHeight;
}

function draw(parts, graph) {
  parts.graphPart.hidden = !graph;
  if (graph) parts.graph.replaceChildren(drawing(graph));
}

function tick(parts, build) {
  const since = Math.max(0, Math.round((serverNow() - Date.parse(build.began)) / 1000));
  const runs = RUNS.includes(build.state);
  say(parts.took, runs ? ` ${span(since)}` : ` in ${duration(build.seconds)}`);
}
