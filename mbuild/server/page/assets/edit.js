// A Modelfile with the marks of `mbuild check`, and the button that builds it.

import { get, post } from "./api.js";
import { announce, h, place, say } from "./dom.js";
import { editor } from "./editor.js";
import { fileList } from "./files.js";

const DRAFT = "mbuild-draft";
let exampleFrom = "";  // that of the text which a new draft begins with
const EXAMPLE = "FROM \nSYSTEM You are a helpful assistant.\n";

export async function editView(model = "") {
  const [{ models }, { quantizations }] = await Promise.all([get("/api/tags"), get("/api/mbuild/about")]);
  const draft = model ? await fromModel(model) : kept() ?? example(models);
  const sheet = editor(draft.text, () => keep(), () => files.named());
  const files = fileList(draft.files ?? [], () => {
    keep();
    sheet.check();
  }, (item, asked) => use(item, asked, sheet, problem));
  const name = h("input", { id: "model", type: "text", value: draft.name, autocomplete: "off", spellcheck: "false",
    autocapitalize: "off", "aria-describedby": "model-help", required: true });
  const type = h("select", { id: "type" }, h("option", { value: "" }, "As it is"),
    quantizations.map((each) => h("option", { value: each, selected: each === draft.type }, each)));
  const base = h("select", { id: "base" }, h("option", { value: "" }, "Choose a model"), models.map((each) => h("option", {}, each.name)));
  const problem = h("p", { class: "problem", id: "build-problem", role: "alert" });
  const keep = () => store({ name: name.value, type: type.value, text: sheet.text(), files: files.draft() });

  for (const each of [name, type]) each.addEventListener("input", keep);
  base.addEventListener("change", async () => {
    const chosen = base.value;
    base.value = "";
    if (!chosen) return;
    try {
      sheet.replace((await fromModel(chosen)).text);
      announce(`The Modelfile of ${chosen} is in the editor`);
    } catch (error) {
      say(problem, error.message);
    }
  });
  const submit = async (event) => {
    event.preventDefault();
    say(problem, "");
    if (files.waiting()) return say(problem, "The files are still on their way.");
    const sent = files.named();
    const body = { model: name.value.trim(), modelfile: sheet.text(), ...(type.value ? { quantize: type.value } : {}),
      ...(Object.keys(sent).length ? { files: sent } : {}) };
    try {
      location.hash = place("build", (await post("/api/mbuild/builds", body)).id);
    } catch (error) {
      say(problem, error.message);
    }
  };
  const form = h("form", { class: "edit", on: { submit } },
    h("div", { class: "fields" },
      field("Name", name, h("p", { class: "note", id: "model-help" }, "As in mario or me/mario:7b. A model that has it is replaced.")),
      field("Quantize", type, null), field("Begin with the Modelfile of", base, null)),
    files.element, sheet.element, problem, h("p", {}, h("button", { class: "primary" }, "Build")));
  sheet.check();
  return { title: "New build", element: h("div", {}, h("h1", {}, "New build"), form),
    left: () => {
      sheet.left();
      files.left();
    },
  };
}

// Writes what was sent into the Modelfile: an adapter as ADAPTER, all else as FROM. Unasked only
// where nobody has written another FROM.
function use(item, asked, sheet, problem) {
  const word = item.parts.some((part) => part.name.endsWith("/adapter_config.json")) ? "ADAPTER" : "FROM";
  const line = new RegExp(`^${word}[ \\t]*(.*)$`, "mi").exec(sheet.text());
  const ours = !line || !line[1].trim() || exampleFrom === line[0];
  if (!asked && !ours) return;
  const value = `${word} ./${item.name}`;
  sheet.replace(line ? sheet.text().replace(line[0], () => value) : word === "FROM" ? `${value}\n${sheet.text()}` : `${sheet.text().trimEnd()}\n${value}\n`);
  say(problem, "");
  announce(`The Modelfile says ${value}`);
}

function field(word, input, help) {
  return h("div", { class: "field" }, h("label", { for: input.id }, word), input, help);
}

async function fromModel(name) {
  const model = await get(`/api/mbuild/models/${encodeURIComponent(name)}`);
  return { name: model.name.replace(/:latest$/, ""), type: "", text: model.modelfile };
}

function example(models) {
  exampleFrom = models.length ? `FROM ${models[0].name}` : "FROM ";
  return { name: "", type: "", text: EXAMPLE.replace("FROM ", () => exampleFrom) };
}

// What was typed outlives a reload, in this tab alone.
function store(draft) {
  sessionStorage.setItem(DRAFT, JSON.stringify(draft));
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(DRAFT));
  } catch {
    return null;
  }
}
