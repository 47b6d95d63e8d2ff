// Starts `mbuild lsp` for Modelfiles; everything else is the server's.

const { commands, window, workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

async function start() {
  const settings = workspace.getConfiguration("mbuild.server");
  const given = settings.get("buildArguments", []);
  const server = {
    command: settings.get("path", "mbuild"),
    args: ["lsp", ...given.flatMap((each) => ["--build-arg", each])],
  };
  const options = {
    documentSelector: [{ language: "modelfile" }],
    // What a Modelfile brings in may change without it.
    synchronize: {
      fileEvents: workspace.createFileSystemWatcher("**/{Modelfile*,*.modelfile,*.txt,*.md}"),
    },
  };
  client = new LanguageClient("mbuild", "mbuild", server, options);
  try {
    await client.start();
  } catch (error) {
    window.showErrorMessage(
      `${server.command} lsp does not start (${error.message}). ` +
        "Install it: pip install 'mbuild-models[lsp]', or set mbuild.server.path.",
    );
  }
}

async function stop() {
  const before = client;
  client = undefined;
  if (before?.isRunning()) {
    await before.stop();
  }
}

async function activate(context) {
  const restart = async () => {
    await stop();
    await start();
  };
  context.subscriptions.push(
    commands.registerCommand("mbuild.restart", restart),
    workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration("mbuild.server")) {
        restart();
      }
    }),
  );
  await start();
}

module.exports = { activate, deactivate: stop };
