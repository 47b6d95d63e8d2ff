// A text area that marks what `check` finds. The marks lie behind it: a copy of the text in which
// nothing but the marks can be seen. Both have the same letters and do not wrap, so each mark is
// under its words, and each number beside its line.

import { post } from "./api.js";
import { count, h, say, sync } from "./dom.js";

const PAUSE = 300;  // milliseconds without a key before the text is checked

// `files` gives those that were sent for the text, which may name them.
export function editor(text, changed, files) {
  const area = h("textarea", { id: "modelfile", wrap: "off", rows: "16", spellcheck: "false", autocomplete: "off",
    autocapitalize: "off", "aria-describedby": "found" });
  area.value = text;
  const numbers = h("pre", { class: "numbers", "aria-hidden": "true" });
  const marks = h("pre", { class: "marks", "aria-hidden": "true" });
  const found = h("p", { class: "found", id: "found", role: "status" });
  const list = h("ol", { class: "problems", "aria-label": "What is wrong" });
  const element = h("div", { class: "field" }, h("label", { for: "modelfile" }, "Modelfile"),
    h("div", { class: "editor" }, numbers, h("div", { class: "sheet" }, marks, area)), found, list);
  const state = { problems: [], timer: 0, asked: null };

  const show = () => {
    paint(area.value, state.problems, numbers, marks);
    align();
  };
  const align = () => {
    marks.scrollTop = numbers.scrollTop = area.scrollTop;
    marks.scrollLeft = area.scrollLeft;
  };
  const check = async () => {
    state.asked?.abort();
    state.asked = new AbortController();
    const asked = area.value;
    try {
      const { problems } = await post("/api/mbuild/check", { modelfile: asked, files: files() }, state.asked.signal);
      if (asked !== area.value) return;  // older than what is there
      state.problems = problems;
      tell(problems, found, list, area);
      show();
    } catch (error) {
      if (error.name !== "AbortError") say(found, `It could not be checked: ${error.message}`);
    }
  };
  const edited = () => {
    changed();
    state.problems = state.problems.filter((problem) => lineOf(area.value, problem) !== undefined);
    show();
    clearTimeout(state.timer);
    state.timer = setTimeout(check, PAUSE);
  };
  area.addEventListener("input", edited);
  area.addEventListener("scroll", align);
  show();
  return {
    element, check,
    text: () => area.value,
    replace: (next) => {
      area.value = next;
      area.scrollTop = 0;
      edited();
    },
    left: () => {
      clearTimeout(state.timer);
      state.asked?.abort();
    },
  };
}

const lineOf = (text, problem) => text.split("\n")[(problem.line ?? 1) - 1];

// The server counts characters, JavaScript halves of some: where a problem begins and ends in its
// line, at least one character long and not beyond the line.
function placeIn(line, problem) {
  const letters = Array.from(line);
  const start = Math.min((problem.column ?? 1) - 1, letters.length);
  const end = Math.min(start + (problem.length ?? 1), letters.length);
  const before = letters.slice(0, start).join("").length;
  return [before, before + letters.slice(start, end).join("").length];
}

function paint(text, problems, numbers, marks) {
  const worst = new Map();  // a line's first problem, an error before a warning
  for (const problem of problems) {
    const known = worst.get(problem.line);
    if (!known || (known.severity !== "error" && problem.severity === "error")) worst.set(problem.line, problem);
  }
  const lines = text.split("\n");
  numbers.replaceChildren(...lines.map((_, n) =>
    h("span", { class: worst.get(n + 1)?.severity ?? null }, `${n + 1}\n`)));
  marks.replaceChildren(...lines.flatMap((line, n) => {
    const problem = worst.get(n + 1);
    if (!problem) return [`${line}\n`];
    const [start, end] = placeIn(line, problem);
    return [line.slice(0, start), h("mark", { class: problem.severity }, line.slice(start, end) || " "), `${line.slice(end)}\n`];
  }));
}

function tell(problems, found, list, area) {
  const errors = problems.filter((problem) => problem.severity === "error").length;
  const warnings = problems.length - errors;
  const parts = [errors ? count(errors, "error") : "", warnings ? count(warnings, "warning") : ""];
  say(found, parts.filter(Boolean).join(", ") || "Nothing is wrong with it.");
  found.className = `found ${errors ? "error" : warnings ? "warning" : "good"}`;
  if (errors) area.setAttribute("aria-invalid", "true");
  else area.removeAttribute("aria-invalid");
  const numbered = problems.map((problem, n) => ({ ...problem, n }));
  sync(list, numbered, (problem) => JSON.stringify(problem), (problem) => item(problem, area), () => {});
}

function item(problem, area) {
  const go = () => {
    const before = area.value.split("\n").slice(0, problem.line - 1).join("\n");
    const first = before.length + (problem.line > 1 ? 1 : 0);
    const [start, end] = placeIn(lineOf(area.value, problem) ?? "", problem);
    area.focus();
    area.setSelectionRange(first + start, first + end);
  };
  const where = problem.line ? h("button", { type: "button", class: "quiet", on: { click: go } }, `Line ${problem.line}`) : null;
  return h("li", { class: problem.severity }, where, h("strong", {}, ` ${problem.severity}: `), problem.message,
    problem.suggestion ? h("span", { class: "remedy" }, problem.suggestion) : null);
}
