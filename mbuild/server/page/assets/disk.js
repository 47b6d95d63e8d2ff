// What takes the space: the sums of `mbuild du`.

import { get } from "./api.js";
import { code, count, h, modelLink, size, table } from "./dom.js";

const MODELS = [
  { title: "Model" }, { title: "Its own", number: true }, { title: "Shared", number: true }, { title: "Total", number: true },
];

export async function diskView() {
  const content = h("div");
  const fill = async () => content.replaceChildren(...shown(await get("/api/mbuild/disk")));
  await fill();
  let known = null;
  const heard = (line) => {
    if (!line.models) return;
    if (known !== null && known !== line.models) fill().catch(() => {});
    known = line.models;
  };
  return { title: "Disk", element: h("div", {}, h("h1", {}, "Disk"), content), heard };
}

function partsOf(disk) {
  const left = Object.values(disk.leftovers).reduce((sum, bytes) => sum + bytes, 0);
  return [
    ["used", "Models", disk.used], ["unused", "Blobs that no model names", disk.unused],
    ["kept", "Kept by the cache", disk.kept], ["index", "Index of the cache", disk.cache],
    ["left", "Left over", left],
  ];
}

function shown(disk) {
  const parts = partsOf(disk);
  const rows = parts.filter(([key, , bytes]) => bytes || key === "used").map(([key, word, bytes]) => [
    h("span", {}, h("span", { class: `key ${key}`, "aria-hidden": "true" }), word), size(bytes),
  ]);
  return [
    h("p", { class: "sum" }, h("strong", {}, size(disk.total)), " in this store"),
    bar(parts, disk.total),
    h("div", { class: "narrow" }, table(null, [{ title: "Part" }, { title: "Size", number: true }], rows)),
    ...notes(disk).map((note) => h("p", { class: "note" }, note)),
    h("section", { "aria-labelledby": "models" }, h("h2", { id: "models" }, "Models"),
      disk.models.length ? modelsOf(disk.models) : h("p", { class: "empty" }, "The store has no models yet.")),
  ];
}

function bar(parts, total) {
  const pieces = parts.filter(([, , bytes]) => bytes).map(([key, , bytes]) => {
    const piece = h("span", { class: `key ${key}` });
    piece.style.flexGrow = String(bytes / (total || 1));
    return piece;
  });
  return h("div", { class: "parts", "aria-hidden": "true" }, pieces);  // the table says the same
}

function notes(disk) {
  return [
    h("span", {}, `The cache keeps at most ${size(disk.keep_budget)} of results that no model names. `, code("mbuild prune"),
      disk.prunable ? ` would free ${size(disk.prunable)} now.` : " would free nothing now."),
    disk.linked ? `${size(disk.linked)} are files of your own under a second name and cost nothing.` : "",
    disk.waiting_uploads ? `${count(disk.waiting_uploads, "upload")} of the last day wait for the request that names them.` : "",
    disk.unreadable_manifests ? `${count(disk.unreadable_manifests, "manifest")} cannot be read; see mbuild verify.` : "",
    disk.reason,
  ].filter((note) => note !== "");
}

function modelsOf(models) {
  const rows = models.map((model) => [
    h("span", {}, modelLink(model.name), model.missing_blobs ? h("strong", { class: "gone" }, ` ${count(model.missing_blobs, "blob")} gone`) : null),
    size(model.own), size(model.shared), size(model.total),
  ]);
  return table("What removing a model frees is its own; what is shared stays for the others.", MODELS, rows);
}
