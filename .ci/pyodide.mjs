// Run pytest in Pyodide: node pyodide.mjs FOLDER CHECKOUT TEST...
//
// FOLDER has npm's package pyodide, and pure Python packages in site/.
import { writeSync } from "node:fs";
import { isMainThread, Worker } from "node:worker_threads";

const [folder, checkout, ...tests] = process.argv.slice(2);

async function run() {
  const { loadPyodide } = await import(`${folder}/node_modules/pyodide/pyodide.mjs`);
  const python = await loadPyodide();
  // A worker's own streams have no number, and lose what is not flushed at its end.
  python.setStdout({ write: (bytes) => writeSync(1, bytes) });
  python.setStderr({ write: (bytes) => writeSync(2, bytes) });
  for (const [place, path] of [["/site", `${folder}/site`], ["/mbuild", checkout]]) {
    python.FS.mkdirTree(place);
    python.mountNodeFS(place, path);
  }
  python.FS.chdir("/mbuild");
  python.globals.set("tests", python.toPy(tests));
  return python.runPython(`
import importlib, sys
sys.path[:0] = ["/site", "/mbuild"]
sys.dont_write_bytecode = True
importlib.invalidate_caches()
import pytest
int(pytest.main(["--capture=sys", *tests]))
`);
}

if (isMainThread) {
  // A thread of its own, because a Python that recurses needs more stack than node's main one.
  const options = { argv: process.argv.slice(2), resourceLimits: { stackSizeMb: 256 } };
  const worker = new Worker(new URL(import.meta.url), options);
  worker.on("error", (error) => { console.error(error.message); process.exit(1); });
  worker.on("exit", (code) => process.exit(code));
} else {
  process.exit(await run());
}
