// The maps of the base fractal as numbers: six coefficients, probability and singular values, each editable.

import { byId, element, fixed, narrow, report } from "./elements.js";
import { colourOf } from "./frames.js";
import { followsDeterminants, probabilities, sigmaOf, singularValues, withMaps, withSingularValues } from "./linear.js";

const PLACES = { a: [0, 0], b: [0, 1], e: [0, 2], c: [1, 0], d: [1, 1], f: [1, 2] };
const NEW_MAP = [[0.5, 0, 0], [0, 0.5, 0]];
const MOST = 255;

export class Maps {
  constructor(model) {
    this.model = model;
    this.place = byId("map-cards");
    byId("map-add").addEventListener("click", () => this.#change((maps) => [...maps, NEW_MAP]));
    byId("map-remove").addEventListener("click", () => this.#change((maps) => maps.slice(0, -1)));
    byId("map-determinants").addEventListener("click", () => model.edit({ maps: model.ifs.maps }, { push: true }));
  }

  /** Show the maps of the base as it is. */
  show() {
    const { ifs } = this.model;
    byId("maps-none").hidden = Boolean(ifs);
    byId("maps").hidden = !ifs;
    if (!ifs) return;
    const cards = this.place;
    while (cards.children.length > ifs.maps.length) cards.lastChild.remove();
    while (cards.children.length < ifs.maps.length) cards.append(this.#card(cards.children.length));
    const p = ifs.p ?? probabilities(ifs.maps);
    ifs.maps.forEach((map, number) => this.#fill(cards.children[number], map, p?.[number]));
    byId("map-add").disabled = ifs.maps.length >= MOST;
    byId("map-remove").disabled = ifs.maps.length < 2;
    byId("map-determinants").disabled = followsDeterminants(ifs);
    const rule = followsDeterminants(ifs) ? "p follows the determinants." : "p is the base's own.";
    byId("map-rule").textContent = rule;
  }

  #change(edit, options = { push: true }) {
    const { ifs } = this.model;
    this.model.edit(withMaps(ifs, edit(ifs.maps)), options);
  }

  #card(number) {
    const card = element("section", { class: "map-card", "aria-label": `Map ${number + 1}` });
    card.style.setProperty("--swatch", colourOf(number));
    const input = (name, label) => {
      const box = element("input", { type: "text", inputMode: "decimal", "data-name": name, "aria-label": `Map ${number + 1}, ${label}` });
      box.addEventListener("input", () => (box.dataset.typing = "true"));
      box.addEventListener("blur", () => delete box.dataset.typing);
      box.addEventListener("change", () => this.#typed(number, name, box));
      box.addEventListener("keydown", (event) => this.#nudge(event, number, name, box));
      return element("label", {}, element("span", {}, label), box);
    };
    const matrix = element("div", { class: "matrix" }, ...Object.keys(PLACES).map((name) => input(name, name)));
    const others = element("div", { class: "matrix" }, input("s1", "s\u2081"), input("s2", "s\u2082"), input("p", "p"));
    const facts = element("p", { class: "facts" });
    card.append(element("h3", {}, element("i", { class: "dot" }), `Map ${number + 1}`, element("small", { class: "mirrors" }, " mirrors")), facts, matrix, others);
    return card;
  }

  #fill(card, map, p) {
    const [s1, s2] = singularValues(map);
    const values = { s1, s2, p };
    for (const [name, [row, column]] of Object.entries(PLACES)) values[name] = map[row][column];
    for (const box of card.querySelectorAll("input")) {
      if (document.activeElement === box && box.dataset.typing) continue;
      const value = values[box.dataset.name];
      box.value = value === undefined ? "" : narrow(value);
      box.title = value === undefined ? "" : String(value);
    }
    const mirrors = map[0][0] * map[1][1] - map[0][1] * map[1][0] < 0;
    const contraction = `${s1 < 1 ? "contracts to" : "does not contract:"} ${fixed(s1)}`;
    card.querySelector(".facts").textContent = `${contraction} \u00b7 \u03c3 share ${fixed(sigmaOf(map), 2)}`;
    card.querySelector(".mirrors").hidden = !mirrors;
  }

  #typed(number, name, box) {
    delete box.dataset.typing; // or what it was made of would not be shown
    const value = Number(box.value.trim().replace(",", "."));
    if (box.value.trim() === "" || !Number.isFinite(value)) {
      report("maps", `map ${number + 1}, ${name}: "${box.value}" is no number; the one before stays`);
      return this.show();
    }
    report("maps", "");
    this.#set(number, name, value, { push: true });
  }

  #nudge(event, number, name, box) {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    delete box.dataset.typing;
    this.model.inputAt = event.timeStamp;
    const value = Number((Number(box.title) + direction * (event.shiftKey ? 0.1 : 0.01)).toPrecision(12));
    this.#set(number, name, value, {});
  }

  #set(number, name, value, options) {
    const { ifs } = this.model;
    if (name === "p") return this.#setProbability(number, value, options);
    let map = ifs.maps[number].map((row) => [...row]);
    if (name === "s1" || name === "s2") {
      const [s1, s2] = singularValues(map);
      map = withSingularValues(map, Math.max(name === "s1" ? value : s1, 0), Math.max(name === "s2" ? value : s2, 0));
    } else {
      const [row, column] = PLACES[name];
      map[row][column] = value;
    }
    this.#change((maps) => maps.map((each, place) => (place === number ? map : each)), options);
  }

  // One probability as typed, in [0, 1]; the others share the rest as they did.
  #setProbability(number, typed, options) {
    const { ifs } = this.model;
    const before = ifs.p ?? probabilities(ifs.maps);
    const value = ifs.maps.length === 1 ? 1 : Math.min(Math.max(typed, 0), 1);
    if (value !== typed) report("maps", `map ${number + 1}, p: ${typed} is outside 0 to 1: ${value} taken`);
    const rest = 1 - before[number];
    const others = ifs.maps.length - 1;
    const p = before.map((each, place) => {
      if (place === number) return value;
      return rest > 0 ? (each / rest) * (1 - value) : (1 - value) / others;
    });
    this.model.edit({ maps: ifs.maps, p }, options);
  }
}
