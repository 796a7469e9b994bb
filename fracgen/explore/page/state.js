// What the page shows, all of it: the recipe's values as the user gives them, and the view. It stands in the URL's
// fragment, so that a link restores it; only what differs from a default is written there.

import { clamp } from "./controls.js";

const VIEW = {
  tab: "explore",
  first: 0, // of the grid, along its axis
  axis: "", // along which the grid goes; "" is the first that has more than one place
  at: [], // where the single picture stands on each axis, slowest first
  shown: -1, // the index of the large picture; -1 is the base
  compare: "images", // of the grid: images, difference, flicker
  base: -1, // which base of the seed is locked; -1 is none of them
  frames: false,
  bright: false,
  rows: "", // of the sweep: a field, and its values as typed
  rowValues: "",
  columns: "",
  columnValues: "",
  draws: 4, // of each image, as the network sees it
  drawSeed: 0,
  ofFolder: false, // the network sees the folder's images, not the recipe's
  sample: 0, // of the folder
  label: "", // of the folder, where it is narrowed to a class
  theme: "",
};

const SETTLE = 300; // ms after the last move of a drag until the address has it

const CHOICES = {
  tab: ["explore", "maps", "sweep", "network", "export", "folder"],
  compare: ["images", "difference", "flicker"],
  theme: ["", "light", "dark"],
};

export class State extends EventTarget {
  constructor(session) {
    super();
    this.session = session;
    this.values = {};
    this.view = { ...VIEW };
    this.augment = {}; // settings of augmentation and mixing that are not the defaults
    this.restore();
    window.addEventListener("popstate", () => {
      this.restore();
      this.#announce({ live: false });
    });
  }

  /** The name of the recipe. */
  get recipe() {
    return this.values.recipe;
  }

  /** The fields of augmentation and mixing; none without the extra for training. */
  get augmentFields() {
    const { fields = [], mix_fields: mixFields = [] } = this.session.augment ?? {};
    return [...fields, ...mixFields];
  }

  /** The fields of the recipe, in order. */
  get fields() {
    return this.session.fields[this.recipe];
  }

  /**
   * Change values of the recipe or of the view. live: a slider or a handle is being dragged, so that more is to come;
   * push: the change is one that the browser's Back button takes back.
   */
  set({ values = {}, view = {}, augment = {} }, { live = false, push = false } = {}) {
    Object.assign(this.values, values);
    Object.assign(this.view, view);
    Object.assign(this.augment, augment);
    this.#write({ live, push });
    this.#announce({ live, recipe: Object.keys(values).length > 0 });
  }

  /** Take another recipe, with its defaults, or with the values that the server was started with. */
  choose(name) {
    this.values = this.#defaults(name);
    Object.assign(this.view, { first: 0, axis: "", at: [], shown: -1, frames: false });
    this.#write({ push: true });
    this.#announce({ live: false, recipe: true });
  }

  /** Values and view as the URL's fragment has them. */
  restore() {
    const given = new URLSearchParams(location.hash.slice(1));
    const named = given.get("recipe");
    const name = this.session.fields[named] ? named : this.session.recipe.recipe;
    this.values = this.#defaults(name, given.has("recipe"));
    for (const field of this.fields) {
      if (given.has(field.name)) this.values[field.name] = read(field, given.get(field.name));
    }
    if (given.has("ifs")) this.values.ifs = parseIFS(given.get("ifs"));
    this.augment = {};
    for (const field of this.augmentFields) {
      if (given.has(`a.${field.name}`)) this.augment[field.name] = read(field, given.get(`a.${field.name}`));
    }
    for (const [key, usual] of Object.entries(this.#usualView(given))) {
      this.view[key] = given.has(`v.${key}`) ? readView(key, given.get(`v.${key}`), usual) : usual;
    }
  }

  /** The URL's fragment of the state. */
  get fragment() {
    const written = new URLSearchParams({ recipe: this.recipe });
    for (const field of this.fields) {
      const value = this.values[field.name];
      const usual = field.default ?? null;
      if (value !== undefined && JSON.stringify(value) !== JSON.stringify(usual)) written.set(field.name, write(value));
    }
    if (this.values.ifs?.maps) written.set("ifs", formatIFS(this.values.ifs));
    for (const [key, usual] of Object.entries(VIEW)) {
      if (String(this.view[key]) !== String(usual)) written.set(`v.${key}`, String(this.view[key]));
    }
    for (const { name, default: usual } of this.augmentFields) {
      const value = this.augment[name] ?? usual;
      if (JSON.stringify(value) !== JSON.stringify(usual)) written.set(`a.${name}`, write(value));
    }
    return written.toString().replaceAll("%2C", ",").replaceAll("%3B", ";");
  }

  // What a session began with is more than defaults: inputs that lie in files too. Of a link, only those are taken.
  #defaults(name, linked = false) {
    const values = Object.fromEntries(this.session.fields[name].map((field) => [field.name, field.default ?? null]));
    const own = this.session.recipe.recipe === name ? this.session.recipe : {};
    const known = new Set(this.session.fields[name].map((field) => field.name));
    for (const [key, value] of Object.entries(own)) {
      if (!linked || (!known.has(key) && key !== "ifs")) values[key] = value;
    }
    return { ...values, recipe: name };
  }

  // What the page begins with where no link says anything else: a folder that was given is open.
  #usualView(given) {
    if (given.has("recipe")) return VIEW;
    const { folder, base, recipe } = this.session;
    const own = { tab: folder ? "folder" : VIEW.tab, base: recipe.ifs ? (base ?? -1) : -1 };
    return { ...VIEW, ...own };
  }

  // While a slider is dragged the address is written now and then, as browsers bound how often; the whole drag is one
  // step of the Back button.
  #write({ live = false, push = false }) {
    clearTimeout(this.timer);
    const isWithinDrag = this.isDragging;
    this.isDragging = live;
    if (live && isWithinDrag) this.timer = setTimeout(() => this.#writeAddress("replaceState"), SETTLE);
    else this.#writeAddress((live || push) && !isWithinDrag ? "pushState" : "replaceState");
  }

  #writeAddress(method) {
    const fragment = `#${this.fragment}`;
    if (fragment !== location.hash) history[method](null, "", fragment);
  }

  #announce(detail) {
    this.dispatchEvent(new CustomEvent("change", { detail: { recipe: true, ...detail } }));
  }
}

/** Rows a, b, c, d, e, f, p of a category file, with ";" between maps; p is left out where the determinants give it. */
export function formatIFS(ifs) {
  return ifs.maps
    .map(([[a, b, e], [c, d, f]], map) => [a, b, c, d, e, f, ...(ifs.p ? [ifs.p[map]] : [])].join(","))
    .join(";");
}

/** The inverse of `formatIFS`; null where a row is none. */
export function parseIFS(text) {
  const rows = text.split(";").map((row) => row.split(",").map(Number));
  const width = rows[0].length;
  if (![6, 7].includes(width) || rows.some((row) => row.length !== width || !row.every(Number.isFinite))) return null;
  const maps = rows.map(([a, b, c, d, e, f]) => [[a, b, e], [c, d, f]]);
  return width === 7 ? { maps, p: rows.map((row) => row[6]) } : { maps };
}

function write(value) {
  if (value === null) return "";
  return Array.isArray(value) ? value.join(",") : String(value);
}

function read(field, text) {
  if (text === "") return field.type === "text" ? "" : null;
  if (field.type === "bool") return text === "true";
  if (field.type === "text") return text;
  if (field.type === "choice") return field.choices.find((choice) => String(choice) === text) ?? field.default;
  if (field.type === "numbers") {
    const numbers = text.split(",").map(Number);
    return numbers.every(Number.isFinite) ? numbers : field.default;
  }
  return clamp(field, text, field.type === "int")[0];
}

function readView(key, text, usual) {
  if (Array.isArray(usual)) return text.split(",").map(Number).filter(Number.isSafeInteger);
  if (typeof usual === "boolean") return text === "true";
  if (typeof usual === "number") return Number.isSafeInteger(Number(text)) ? Math.max(Number(text), Math.min(usual, 0)) : usual;
  return CHOICES[key]?.includes(text) ?? true ? text : usual;
}
