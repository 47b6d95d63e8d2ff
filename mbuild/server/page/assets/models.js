// The models of the store, one of them with its layers, and what models share.

import { ask, get } from "./api.js";
import { asking } from "./asking.js";
import { announce, code, facts, h, modelLink, muted, names, place, size, table, when } from "./dom.js";

const MODELS = [
  { title: "Name" }, { title: "Size", number: true }, { title: "Quantization" }, { title: "Parameters" },
  { title: "Family" }, { title: "Changed" }, { title: "Id" },
];
const LAYERS = [{ title: "Layer" }, { title: "Digest" }, { title: "Size", number: true }, { title: "Also used by" }];
const SHARED = [{ title: "Layer" }, { title: "Digest" }, { title: "Size", number: true }, { title: "Used by" }];

const short = (digest) => code(digest.replace("sha256:", "").slice(0, 12));

export async function modelsView() {
  const list = h("div");
  const fill = async () => {
    const [{ models }, { layers }] = await Promise.all([get("/api/tags"), get("/api/mbuild/layers")]);
    list.replaceChildren(...(models.length ? [tableOf(models), shared(layers)] : [empty()]));
  };
  await fill();
  const element = h("div", {}, h("h1", {}, "Models"), list);
  return { title: "Models", element, heard: onChange(fill) };
}

// Calls `fill` when the models are not those that were shown first.
function onChange(fill) {
  let known = null;
  return (line) => {
    if (!line.models) return;
    if (known !== null && known !== line.models) fill().catch(() => {});  // the next change tries again
    known = line.models;
  };
}

function empty() {
  return h("p", { class: "empty" }, "The store has no models yet. ", h("a", { href: place("edit") }, "Build one"),
    ", or bring one here with ", code("mbuild pull"), ".");
}

function tableOf(models) {
  return table(null, MODELS, models.map((model) => [
    modelLink(model.name), size(model.size), model.details.quantization_level || muted("unknown"),
    model.details.parameter_size || muted("unknown"), model.details.family || muted("unknown"),
    when(model.modified_at), short(model.digest),
  ]));
}

function shared(layers) {
  const saved = layers.reduce((sum, layer) => sum + layer.size * (layer.users.length - 1), 0);
  const rows = layers.map((layer) => [layer.kind, short(layer.digest), size(layer.size), h("span", {}, names(layer.users))]);
  return h("section", { "aria-labelledby": "shared" }, h("h2", { id: "shared" }, "Shared layers"),
    layers.length
      ? table(`Each is stored once; copies would take ${size(saved)} more.`, SHARED, rows)
      : h("p", { class: "empty" }, "No two models have a layer in common."));
}

export async function modelView(name = "") {
  const model = await get(`/api/mbuild/models/${encodeURIComponent(name)}`);
  const { details } = model;
  const element = h("div", {},
    h("div", { class: "title" }, h("h1", {}, model.name),
      actionsOf(model)),
    facts([
      ["Id", code(model.id.slice(0, 12))], ["Changed", when(model.modified_at)], ["Size", size(model.size)],
      ["Its own", size(model.own)], ["Shared", size(model.shared)],
      ["Quantization", details.quantization_level], ["Parameters", details.parameter_size], ["Family", details.family],
      ["Capabilities", model.capabilities.join(", ")],
      ["Built by", model.build ? h("a", { href: place("build", model.build) }, `build ${model.build}`) : ""],
    ]),
    h("section", { "aria-labelledby": "layers" }, h("h2", { id: "layers" }, "Layers"), layersOf(model)),
    h("section", { "aria-labelledby": "text" }, h("h2", { id: "text" }, "Modelfile"),
      h("pre", { tabindex: "0", "aria-label": `Modelfile of ${model.name}` }, model.modelfile)));
  return { title: model.name, element };
}

function actionsOf(model) {
  const own = model.name;
  const copied = async (name) => {
    await copy(own, name);
    announce(`${name} is a copy of ${own}`);
    location.hash = place("model", name);
  };
  const renamed = async (name) => {
    await copy(own, name);
    await ask("DELETE", "/api/delete", { model: own });
    announce(`${own} is called ${name} now`);
    location.hash = place("model", name);
  };
  const removed = async () => {
    await ask("DELETE", "/api/delete", { model: own });
    announce(`${own} is removed`);
    location.hash = place("models");
  };
  const freed = model.own ? `That frees ${size(model.own)}, as soon as the cache does not keep it.` : "Other models use all of its layers.";
  return h("div", { class: "actions" },
    h("a", { class: "button", href: place("edit", own) }, "Edit its Modelfile"),
    asking("Copy", { title: `Copy ${own}`, field: "Name of the copy", value: own, done: copied }),
    asking("Rename", { title: `Rename ${own}`, field: "New name", value: own, done: renamed }),
    asking("Delete", { title: `Delete ${own}?`, text: freed, done: removed, danger: true }));
}

// The server would replace a model that has the name: here somebody has to remove it first.
async function copy(source, destination) {
  const { models } = await get("/api/tags");
  const whole = (name) => (/:[^/]*$/.test(name) ? name : `${name}:latest`).toLowerCase();
  if (models.some((each) => whole(each.name) === whole(destination))) {
    throw new Error(`There is a model ${destination} already. Delete it first, or choose another name.`);
  }
  await ask("POST", "/api/copy", { source, destination });
}

function layersOf(model) {
  return table(null, LAYERS, model.layers.map((layer) => [
    layer.kind,
    h("span", {}, short(layer.digest), layer.present ? null : h("strong", { class: "gone" }, " gone")),
    size(layer.size),
    layer.users.length ? h("span", {}, names(layer.users)) : muted("no other model"),
  ]));
}
