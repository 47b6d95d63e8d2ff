// Prints the scopes of a text's parts, as an editor colours them: node textmate.mjs GRAMMAR < TEXT
// One line a part: its text as JSON, a tab, its scopes without the outermost, blank by blank.
import fs from "node:fs";
import oniguruma from "vscode-oniguruma";
import textmate from "vscode-textmate";

const wasm = new URL("node_modules/vscode-oniguruma/release/onig.wasm", import.meta.url);
await oniguruma.loadWASM(fs.readFileSync(wasm).buffer);
const registry = new textmate.Registry({
  onigLib: Promise.resolve({
    createOnigScanner: (patterns) => new oniguruma.OnigScanner(patterns),
    createOnigString: (text) => new oniguruma.OnigString(text),
  }),
  loadGrammar: async () => textmate.parseRawGrammar(fs.readFileSync(process.argv[2], "utf8"), "g.json"),
});
const grammar = await registry.loadGrammar("source.modelfile");
let stack = textmate.INITIAL;
for (const line of fs.readFileSync(0, "utf8").split("\n")) {
  const found = grammar.tokenizeLine(line, stack);
  for (const token of found.tokens) {
    const part = line.slice(token.startIndex, token.endIndex);
    console.log(`${JSON.stringify(part)}\t${token.scopes.slice(1).join(" ")}`);
  }
  stack = found.ruleStack;
}
