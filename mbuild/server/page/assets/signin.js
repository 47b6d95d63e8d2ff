// The sign-in, where the server has a token.

import { token } from "./api.js";
import { h, say } from "./dom.js";

export function signInView(wasRefused, enter) {
  const input = h("input", {
    id: "token", type: "password", autocomplete: "current-password", required: true,
    "aria-describedby": "token-help token-problem", spellcheck: "false",
  });
  const problem = h("p", { class: "problem", id: "token-problem", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    say(problem, "");
    try {
      await enter(input.value);
    } catch (error) {
      token.drop();
      say(problem, error.status === 401 ? "That is not the server's token." : error.message);
      input.setAttribute("aria-invalid", "true");
      input.select();
      input.focus();
    }
  };
  if (wasRefused) {
    token.drop();
    say(problem, "The server no longer takes the token of this tab.");
  }
  const form = h("form", { class: "card sign-in", on: { submit } },
    h("label", { for: "token" }, "Token"), input,
    h("p", { class: "note", id: "token-help" },
      "It is what the server was started with, as --token or MBUILD_TOKEN. This tab keeps it until it is closed."),
    problem, h("p", {}, h("button", { class: "primary" }, "Sign in")));
  return { title: "Sign in", element: h("div", {}, h("h1", {}, "Sign in"), form), focus: input };
}
