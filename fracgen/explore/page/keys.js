// The keyboard: single keys for the main things, listed in the help.

import { byId, element } from "./elements.js";

/** keys: [[key, what it does, in words, a function]]. They are not taken from who is typing. */
export function listen(keys) {
  const actions = new Map(keys.map(([key, , act]) => [key, act]));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || byId("help").open) return;
    const act = actions.get(event.key);
    if (!act) return;
    event.preventDefault();
    act();
  });
  const rows = keys.map(([key, words]) => element("tr", {}, element("th", { scope: "row" }, element("kbd", {}, key)), element("td", {}, words)));
  byId("keys").replaceChildren(...rows);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
}

function isTyping(target) {
  return target.matches?.("select, textarea, input:not([type=range], [type=checkbox], [type=radio])") ?? false;
}

/** Arrow keys move between the tabs of a list, as a tab list does. */
export function moveByArrows(list, choose) {
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const tabs = [...list.querySelectorAll("[role=tab]:not([hidden])")];
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    choose(next);
  });
}
