// A button that asks before it does something: for a name, or whether to do it at all.

import { h, say } from "./dom.js";

// `done` gets the name and may throw, whose words are then shown; `field` is the label of the name.
export function asking(word, { title, text = "", field = "", value = "", done, danger = false }) {
  const id = `ask-${word.toLowerCase()}`;
  const input = field ? h("input", { id: `${id}-name`, type: "text", value, required: true, autocomplete: "off",
    spellcheck: "false", autocapitalize: "off" }) : null;
  const problem = h("p", { class: "problem", role: "alert" });
  const yes = h("button", { class: danger ? "danger" : "primary" }, word);
  const no = h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
  const submit = async (event) => {
    event.preventDefault();
    yes.disabled = true;
    say(problem, "");
    try {
      await done(input?.value.trim());
      dialog.close();
    } catch (error) {
      say(problem, error.message);
    }
    yes.disabled = false;
  };
  const form = h("form", { on: { submit } }, h("h2", { id: `${id}-title` }, title), text ? h("p", {}, text) : null,
    input ? h("div", { class: "field" }, h("label", { for: input.id }, field), input) : null, problem,
    h("p", { class: "actions" }, yes, no));
  const dialog = h("dialog", { "aria-labelledby": `${id}-title` }, form);
  const open = () => {
    say(problem, "");
    if (input) input.value = value;
    dialog.showModal();
    if (input) input.select();
    else no.focus();
  };
  return [h("button", { type: "button", "aria-haspopup": "dialog", class: danger ? "danger" : null, on: { click: open } }, word), dialog];
}
