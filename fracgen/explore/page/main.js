// The page of `fracgen explore`, wired: session, state, model, views, keys.

import { get, isBusy } from "./api.js";
import { buildControls, words } from "./controls.js";
import { announce, byId, copy, count, element, report } from "./elements.js";
import { Export } from "./export.js";
import { Flicker } from "./flicker.js";
import { Folder } from "./folder.js";
import { Grid, GRID } from "./grid.js";
import { listen, moveByArrows } from "./keys.js";
import { Large } from "./large.js";
import { withSigma } from "./linear.js";
import { Maps } from "./maps.js";
import { Model } from "./model.js";
import { Network } from "./network.js";
import { State } from "./state.js";
import { Sweep } from "./sweep.js";

const WITH_LARGE = ["explore", "maps", "export"]; // tabs beside which the large picture stands

class Page {
  constructor(session) {
    this.state = new State(session);
    this.model = new Model(this.state);
    this.flicker = new Flicker();
    this.large = new Large(this.state, this.model, this.flicker);
    this.grid = new Grid(this.state, this.model, this.flicker);
    this.maps = new Maps(this.model);
    this.views = {
      sweep: new Sweep(this.state, this.model),
      network: new Network(this.state, this.model),
      folder: new Folder(this.state),
    };
    this.export = new Export(this.state, this.model);
    this.drawn = new Map(); // by tab, the recipe and view that it was drawn for
    this.#wire(session);
    this.#keys();
    this.#onChange({ live: false, recipe: true });
  }

  #wire(session) {
    const { state, model } = this;
    const recipes = byId("recipe");
    recipes.append(...session.recipes.map((name) => element("option", { value: name }, name)));
    recipes.addEventListener("change", () => state.choose(recipes.value));
    state.addEventListener("change", (event) => this.#onChange(event.detail));
    model.addEventListener("drawable", () => this.#draw());
    model.addEventListener("resolved", () => this.#onResolved());
    model.addEventListener("failed", () => document.body.classList.add("stale"));
    document.addEventListener("input", (event) => (model.inputAt = event.timeStamp), { capture: true });
    document.addEventListener("fracgen:requests", () => this.#busy());
    for (const tab of document.querySelectorAll("[role=tab]")) tab.addEventListener("click", () => this.#open(tab.dataset.tab));
    moveByArrows(byId("tabs"), (tab) => this.#open(tab.dataset.tab));
    byId("base-back").addEventListener("click", () => model.step(-1));
    byId("base-on").addEventListener("click", () => model.step(1));
    byId("lock").addEventListener("click", () => model.lock(!model.isLocked));
    byId("bright").addEventListener("click", () => state.set({ view: { bright: !state.view.bright } }));
    byId("frames-on").addEventListener("click", () => this.#toggleFrames());
    byId("show-base").addEventListener("click", () => state.set({ view: { shown: -1 } }, { push: true }));
    byId("theme").addEventListener("click", () => this.#turnTheme());
    for (const box of document.querySelectorAll("[name=compare]")) box.addEventListener("change", () => this.#compare(box.value));
    byId("turn").addEventListener("click", () => this.flicker.turn());
    this.flicker.calm.addEventListener("change", () => this.#compare(state.view.compare));
  }

  #onChange({ live, recipe }) {
    const { state, model } = this;
    document.documentElement.dataset.theme = state.view.theme;
    if (this.shownRecipe !== state.recipe) {
      this.shownRecipe = state.recipe;
      byId("recipe").value = state.recipe;
      for (const view of ["base", "grid", "sweep", "network"]) report(view, ""); // said of another
      this.showControls = buildControls(byId("controls"), state.fields, (name, value, options) => this.#typed(name, value, options));
    }
    this.#showState();
    if (recipe && this.#recipeChanged()) void model.refresh({ live });
    else if (model.recipe) this.#draw();
  }

  #recipeChanged() {
    const text = JSON.stringify(this.state.values);
    const isChanged = text !== this.values;
    this.values = text;
    return isChanged;
  }

  #typed(name, value, options) {
    const { state, model } = this;
    if (model.isLocked && model.baseNumber !== null && ["sigma", "maps"].includes(name)) {
      return void model.rebase({ [name]: value }, options);
    }
    if (model.isLocked && name === "sigma") return model.edit(withSigma(model.ifs, value), options);
    if (model.isLocked && name === "maps" && value !== model.ifs.maps.length) {
      announce("unlocked: another number of maps is another base");
      return state.set({ values: { maps: value, ifs: null } }, options);
    }
    if (state.values.ifs && (name === "bases" || (!model.isLocked && ["sigma", "maps"].includes(name)))) {
      announce("unlocked: the base fractals are searched again");
      return state.set({ values: { [name]: value, ifs: null } }, options);
    }
    const view = name === "seed" ? { base: -1 } : {}; // a base has its number among those of a seed
    const limited = name === "maps" ? { sigma: Math.min(state.values.sigma, 3 * value) } : {};
    return state.set({ values: { [name]: value, ...limited }, view }, options);
  }

  #showState() {
    const { state, model } = this;
    const { view } = state;
    const sigma = state.fields.find(({ name }) => name === "sigma");
    if (sigma) sigma.at_most = 3 * state.values.maps; // what so many maps can have
    this.showControls(state.values);
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const isOpen = tab.dataset.tab === view.tab;
      tab.setAttribute("aria-selected", String(isOpen));
      tab.tabIndex = isOpen ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !isOpen;
    }
    document.body.dataset.tab = view.tab;
    byId("picture").hidden = !WITH_LARGE.includes(view.tab);
    byId("controls-panel").hidden = view.tab === "folder";
    byId("lock").setAttribute("aria-pressed", String(model.isLocked));
    byId("frames-on").setAttribute("aria-pressed", String(view.frames));
    byId("bright").setAttribute("aria-pressed", String(view.bright));
    document.body.classList.toggle("bright", view.bright && view.compare !== "difference");
    for (const box of document.querySelectorAll("[name=compare]")) box.checked = box.value === view.compare;
    byId("turn").hidden = !(view.compare === "flicker" && this.flicker.calm.matches);
    this.flicker.run(view.compare === "flicker");
    byId("legend").hidden = view.compare !== "difference";
    this.maps.show();
  }

  #onResolved() {
    document.body.classList.remove("stale");
    const { resolved, state, axes } = this.model;
    const hasBase = Boolean(resolved.base);
    for (const id of ["base-back", "base-on", "lock", "frames-on", "tab-maps"]) byId(id).hidden = !hasBase;
    byId("compare").hidden = !this.model.hasBase;
    report("resolved", hasBase || resolved.passes ? "" : resolved.reason); // of a base, its badges say so
    if (!hasBase && state.view.tab === "maps") state.set({ view: { tab: "explore" } });
    this.#axes(axes, hasBase);
    byId("activity").textContent = describeSearch(resolved.search);
    document.body.classList.toggle("searching", Boolean(resolved.search));
    this.maps.show();
    this.export.show();
  }

  // Where the single picture stands, for data sets without a base.
  #axes(axes, hasBase) {
    const place = byId("axes");
    place.hidden = hasBase;
    if (hasBase) return;
    const key = axes.map(({ name, size }) => `${name} ${size}`).join();
    if (place.dataset.key !== key) {
      place.dataset.key = key;
      place.replaceChildren(...axes.map((axis, number) => this.#axis(axis, number)));
    }
    this.#places();
  }

  // Where the large picture stands.
  #places() {
    const places = this.model.placesOf(this.model.largeIndex);
    [...byId("axes").querySelectorAll("input, select")].forEach((box, axis) => {
      if (document.activeElement !== box) box.value = String(places[axis]);
    });
  }

  #axis({ name, size, labels }, axis) {
    const box = labels
      ? element("select", {}, ...labels.map((label, value) => element("option", { value: String(value) }, label)))
      : element("input", { type: "number", min: 0, max: size - 1, step: 1 });
    box.addEventListener("input", () => {
      const at = this.model.placesOf(this.model.largeIndex);
      at[axis] = Math.min(Math.max(Math.round(Number(box.value)) || 0, 0), size - 1);
      this.state.set({ view: { at, shown: -1 } }, { live: true });
    });
    box.addEventListener("change", () => (box.value = String(this.model.at(axis))));
    return element("label", { title: `${size} of them` }, words(name), box);
  }

  #draw() {
    const { tab } = this.state.view;
    const found = this.model.resolved?.search?.found ?? ""; // categories: with more of them, more can be drawn
    const grid = `${this.model.gridIndices.join()};${this.grid.comparesWithBase}`;
    if (WITH_LARGE.includes(tab)) this.#once("large", `${this.model.largeIndex};${found}`, () => this.large.draw());
    if (tab === "explore") this.#once("grid", `${grid};${found}`, () => this.grid.draw());
    const { sample, label, rows, rowValues, columns, columnValues } = this.state.view;
    const sweep = [rows, rowValues, columns, columnValues, this.model.largeIndex].join(";");
    if (tab === "sweep") this.#once("sweep", sweep, () => this.views.sweep.draw());
    if (tab === "network") this.#once("network", this.views.network.key, () => this.views.network.draw());
    if (tab === "folder") this.#once("folder", `${sample};${label}`, () => this.views.folder.draw(), false);
    if (!byId("axes").hidden) this.#places();
    this.export.show();
    this.#busy();
  }

  // Draw where recipe or view are others than before; else only show again.
  #once(view, detail, draw, ofRecipe = true) {
    const key = `${ofRecipe ? JSON.stringify(this.model.recipe) : ""};${detail}`;
    if (this.drawn.get(view) === key) {
      if (view === "grid") this.grid.show();
      if (view === "large") this.large.show();
      return;
    }
    this.drawn.set(view, key);
    void draw();
  }

  #busy() {
    byId("stage").setAttribute("aria-busy", String(isBusy() || this.model.isWaiting));
  }

  #open(tab) {
    this.state.set({ view: { tab } }, { push: true });
  }

  #compare(compare) {
    this.state.set({ view: { compare } });
  }

  #toggleFrames() {
    this.state.set({ view: { frames: !this.state.view.frames, shown: -1 } });
  }

  #turnTheme() {
    const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    const current = this.state.view.theme || (isDark ? "dark" : "light");
    this.state.set({ view: { theme: current === "dark" ? "light" : "dark" } });
  }

  #keys() {
    const { state, model } = this;
    const toggle = (compare) => this.#compare(state.view.compare === compare ? "images" : compare);
    const tabs = ["explore", "maps", "sweep", "network", "export", "folder"];
    listen([
      ["n", "next base fractal", () => model.step(1)],
      ["p", "previous base fractal", () => model.step(-1)],
      ["l", "lock this base, or search again", () => model.lock(!model.isLocked)],
      ["m", "frames of the maps over the picture", () => this.#toggleFrames()],
      ["d", "difference to the base", () => toggle("difference")],
      ["f", "flicker: images in turn with the base", () => this.#flick(toggle)],
      ["g", "brighter", () => state.set({ view: { bright: !state.view.bright } })],
      ["b", "the base in the large picture", () => state.set({ view: { shown: -1 } })],
      ["[", "16 classes back", () => this.grid.move(state.view.first - GRID)],
      ["]", "16 classes on", () => this.grid.move(state.view.first + GRID)],
      ["c", "copy the command", () => copy(model.resolved?.command ?? "", byId("copy-command"))],
      ["t", "light or dark", () => this.#turnTheme()],
      ...tabs.map((tab, place) => [String(place + 1), `open ${byId(`tab-${tab}`).textContent.trim()}`, () => this.#openShown(tab)]),
      ["?", "these keys", () => byId("help").showModal()],
    ]);
  }

  // Without motion of its own, the key itself turns the pictures.
  #flick(toggle) {
    if (this.flicker.calm.matches && this.state.view.compare === "flicker") this.flicker.turn();
    else toggle("flicker");
  }

  #openShown(tab) {
    if (!byId(`tab-${tab}`).hidden) this.#open(tab);
  }
}

function describeSearch(search) {
  return search ? `categories: ${count(search.found)} of ${count(search.wanted)} found` : "drawing \u2026";
}

try {
  const page = new Page(await get("/api/session"));
  document.documentElement.dataset.ready = "true";
  report("note", page.state.session.note);
  byId("version").textContent = page.state.session.version;
} catch (error) {
  report("session", error.message);
}
