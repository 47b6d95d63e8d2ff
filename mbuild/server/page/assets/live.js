// One stream of changes for the tab. It rests while nobody sees the tab: a browser has few
// connections for one host, and each open page costs the server a look at the store every second.

import { lines } from "./api.js";

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 15000;

let build = "";
let listener = () => {};
let running = null;
let wait = FIRST_WAIT;
let later = 0;
let ahead = 0;  // the server's clock less ours, in milliseconds

// What the server would say that the time is, in milliseconds.
export const serverNow = () => Date.now() + ahead;

// `heard` gets every line; an object with `link` says how the stream itself is.
export function listen(heard) {
  listener = heard;
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : start()));
}

// Follow the lists, and that build if one is named.
export function follow(identity) {
  if (running && build === identity) return;
  build = identity;
  rest();
  start();
}

export function rest() {
  clearTimeout(later);
  running?.abort();
  running = null;
}

async function start() {
  if (running || document.hidden) return;
  const own = new AbortController();
  running = own;
  const query = build ? `&build=${encodeURIComponent(build)}` : "";
  try {
    await lines(`/api/mbuild/watch?seconds=86400${query}`, hear, own.signal);
    again(own);
  } catch (error) {
    if (own.signal.aborted) return;
    listener({ link: "lost", error });
    if (error.status === 401) rest();
    else again(own);
  }
}

function hear(line) {
  wait = FIRST_WAIT;
  if (line.now) ahead = line.now - Date.now();
  listener({ link: "live", ...line });
}

// Try once more, after a longer time at each failure.
function again(own) {
  if (running !== own) return;
  running = null;
  later = setTimeout(start, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT);
}
