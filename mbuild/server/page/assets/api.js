// Asks the server. The token, where one is needed, lies in this tab's session storage: it is
// sent by this page alone, goes with the tab, and no other page of this host gets it, as one of
// another port would get a cookie.

const KEY = "mbuild-token";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  drop: () => sessionStorage.removeItem(KEY),
};

// One request; throws Refused with the server's words, or with those for a server that is gone.
export async function ask(method, path, body, signal) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  const content = body === undefined ? undefined : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers, body: content, signal, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer. Does mbuild serve still run?");
  }
  if (!response.ok) throw new Refused(response.status, await wordsOf(response));
  return response;
}

async function wordsOf(response) {
  try {
    return String((await response.json()).error);
  } catch {
    return `The server answered ${response.status}.`;
  }
}

export const get = async (path, signal) => (await ask("GET", path, undefined, signal)).json();
export const post = async (path, body, signal) => (await ask("POST", path, body, signal)).json();
export const remove = async (path) => (await ask("DELETE", path)).json();

// Sends a file as it is, told how many bytes have gone: the browser reads it from the disk.
export function send(path, file, told, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const gone = () => reject(new Refused(0, "The server does not answer. Does mbuild serve still run?"));
    request.open("POST", path);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    if (token.get()) request.setRequestHeader("Authorization", `Bearer ${token.get()}`);
    request.upload.addEventListener("progress", (event) => told(event.loaded));
    request.addEventListener("load", () => {
      const said = parsed(request.responseText);
      if (request.status < 300) resolve(said);
      else reject(new Refused(request.status, String(said.error ?? `The server answered ${request.status}.`)));
    });
    request.addEventListener("error", gone);
    request.addEventListener("abort", () => reject(new DOMException("It was stopped.", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

// Reads lines of JSON as they come, until the server or `signal` ends them.
export async function lines(path, onLine, signal) {
  const response = await ask("GET", path, undefined, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n");
    rest = pieces.pop();
    for (const piece of pieces) onLine(JSON.parse(piece));
  }
}
