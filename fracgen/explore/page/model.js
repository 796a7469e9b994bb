// From the state to what can be drawn: the recipe is resolved by the server (a base fractal is searched, say), and the
// views ask for images of it. Where the base is given, images need not wait for that.

import { newest, post } from "./api.js";
import { report } from "./elements.js";
import { sigma } from "./linear.js";

const GRID = 16;
const SEARCHING = 1000; // ms between questions how far a search for categories is
const SETTLE = 150; // ms after the last move of a handle or slider until the base is vetted

/**
 * Events: "drawable" (`recipe` has changed: ask for images), "resolved" (`resolved` has).
 * recipe: values of which images can be asked for; null before the first.
 */
export class Model extends EventTarget {
  constructor(state) {
    super();
    this.state = state;
    this.recipe = null;
    this.resolved = null;
    this.inputAt = 0; // performance.now() of the last input
    this.timer = 0;
    this.asked = 0; // questions so far, and the newest that was answered
    this.answered = 0;
  }

  /** Whether the base fractal is kept: the recipe holds it. Of several bases the page knows only the name. */
  get isLocked() {
    return Boolean(this.state.values.ifs?.maps);
  }

  /** The base fractal as it is drawn; null where there is none. */
  get ifs() {
    const searched = this.resolved?.recipe;
    const ifs = this.state.values.ifs ?? (searched?.recipe === this.state.recipe ? searched.ifs : null);
    return ifs?.maps ? ifs : null;
  }

  /** The number of the base among those of its seed; null where it is none of them. */
  get baseNumber() {
    if (this.isOfSeveral) return this.resolved.provenance.bases?.[this.basePlace] ?? null;
    const { base } = this.state.view;
    return this.isLocked ? (base >= 0 ? base : null) : (this.resolved?.base?.number ?? null);
  }

  /** Whether there are several base fractals, each with images of its own. */
  get isOfSeveral() {
    return (this.resolved?.recipe.bases ?? 1) > 1;
  }

  /** Of several base fractals, that of the large picture. */
  get basePlace() {
    return this.placesOf(this.largeIndex)[0];
  }

  /** Whether images can be compared with a base: 1p-frac's fractal, the look of a photograph. */
  get hasBase() {
    return Boolean(this.resolved?.base) || this.isOfSeveral || this.state.recipe === "photo";
  }

  /** [{name, size}] of the axes of the index, slowest first. */
  get axes() {
    const axes = this.resolved?.axes;
    return axes?.length ? axes : [{ name: "class", size: this.resolved?.num_samples ?? 1 }];
  }

  /** Whether the recipe is going to be resolved in a moment. */
  get isWaiting() {
    return this.timer !== 0 && !this.resolved?.search;
  }

  /** Resolve the state's values and have them drawn. live: more changes are to come. */
  async refresh({ live = false } = {}) {
    this.#wait(0);
    const values = structuredClone(this.state.values);
    const isSame = this.resolved?.recipe.recipe === values.recipe;
    if (live && isSame && !values.ifs && this.#hasDrafts(values)) return this.#draft(values);
    if (!values.ifs || !isSame) return this.#resolve(values, true);
    this.#draw({ ...values, sigma: undefined, maps: undefined });
    if (live) this.#wait(SETTLE, () => this.#resolve(values, false));
    else await this.#resolve(values, false);
  }

  /** The next base fractal of the seed (1), or the one before (-1); it is kept until it is unlocked. */
  async step(direction) {
    if (!this.resolved?.base) return;
    const values = { ...this.state.values, ifs: null };
    const base = this.baseNumber ?? undefined;
    const answer = await this.#ask({ recipe: values, step: direction, base });
    if (!answer) return;
    this.#take(answer);
    const view = { shown: -1, base: answer.base?.number ?? -1 };
    this.state.set({ values: answer.recipe_given, view }, { push: true });
  }

  /** The locked base of the seed at another sigma or number of maps: the same draws, so that it moves smoothly. */
  async rebase(values, options) {
    const base = this.baseNumber;
    const draft = Boolean(options.live);
    const answer = await this.#ask({ recipe: { ...this.state.values, ...values, ifs: null }, base, draft });
    if (!answer || !this.isLocked) return; // it may have been unlocked meanwhile
    this.#take(answer);
    this.state.set({ values: answer.recipe_given, view: { shown: -1, base } }, options);
  }

  /** Keep this base whatever else changes, or search for one again. */
  lock(isLocked) {
    const ifs = isLocked ? this.ifs : null;
    if (isLocked && !ifs) return;
    const view = { base: isLocked ? (this.baseNumber ?? -1) : -1 };
    this.state.set({ values: isLocked ? baseValues(ifs) : { ifs: null }, view }, { push: true });
  }

  /** Take an edited base fractal. */
  edit(ifs, options) {
    this.state.set({ values: baseValues(ifs), view: { shown: -1, base: -1 } }, options);
  }

  /** The indices of the grid: 16 along one axis, as many as there are, at one place on the others. */
  get gridIndices() {
    const { axis, first } = this.#grid;
    const count = Math.max(Math.min(GRID, this.axes[axis].size - first), 0);
    return Array.from({ length: count }, (_, k) => this.indexAt(this.axes.map((_, i) => (i === axis ? first + k : this.at(i)))));
  }

  get #grid() {
    const chosen = this.axes.findIndex(({ name }) => name === this.state.view.axis);
    const axis = chosen >= 0 ? chosen : Math.max(this.axes.findIndex(({ size }) => size > 1), 0);
    const last = Math.max(this.axes[axis].size - 1, 0);
    return { axis, first: Math.min(Math.max(this.state.view.first, 0), last) };
  }

  /** The number of the axis along which the grid goes. */
  get gridAxis() {
    return this.#grid.axis;
  }

  /** Where the single picture stands on an axis. */
  at(axis) {
    return Math.min(Math.max(this.state.view.at[axis] ?? 0, 0), Math.max(this.axes[axis].size - 1, 0));
  }

  /** The index at these places on the axes. */
  indexAt(places) {
    return this.axes.reduce((index, { size }, axis) => index * size + places[axis], 0);
  }

  /** The places on the axes of an index. */
  placesOf(index) {
    const places = [];
    for (const { size } of this.axes.toReversed()) {
      places.unshift(index % size);
      index = Math.floor(index / size);
    }
    return places;
  }

  /** The index of the large picture; -1 is the base. */
  get largeIndex() {
    const { shown } = this.state.view;
    if (shown >= 0 && shown < (this.resolved?.num_samples ?? Infinity)) return shown;
    return this.resolved?.base ? -1 : this.indexAt(this.axes.map((_, axis) => this.at(axis)));
  }

  async #resolve(values, draws) {
    const answer = await this.#ask({ recipe: values });
    if (!answer) return;
    this.#take(answer);
    if (draws) this.#draw(answer.recipe);
  }

  // Several bases of another seed are not to be told before they are searched, as few systems fill an image.
  #hasDrafts(values) {
    const { recipe, base } = this.resolved;
    if (values.bases !== (recipe.bases ?? 1)) return false;
    return Boolean(base) || (this.isOfSeveral && values.seed === recipe.seed && values.maps === recipe.maps);
  }

  // While a slider moves: the bases of the same numbers, at once. Which one a search takes is asked when the slider rests.
  async #draft(values) {
    this.#wait(SETTLE, () => this.refresh());
    const { recipe, base } = this.resolved;
    const isOfOthers = values.seed !== recipe.seed || values.maps !== recipe.maps;
    const numbers = base ? { base: isOfOthers ? null : base.number } : { bases: this.resolved.provenance.bases ?? [] };
    const answer = await this.#ask({ recipe: values, ...numbers, draft: true });
    if (!answer) return;
    this.#take(answer);
    this.#draw(answer.recipe);
  }

  // Drafts do not wait for a search that is under way, whose answer is dropped then.
  async #ask(values) {
    const number = ++this.asked;
    try {
      const ask = (stamp) => post("/api/resolve", { ...values, ...stamp });
      const answer = await newest(values.draft ? "draft" : "resolve", ask);
      if (!answer || number < this.answered) return undefined;
      this.answered = number;
      report("recipe", "");
      return answer;
    } catch (error) {
      report("recipe", error.message);
      this.dispatchEvent(new Event("failed"));
      return undefined;
    }
  }

  // Do something after `ms`, unless the recipe is refreshed before.
  #wait(ms, act) {
    clearTimeout(this.timer);
    this.timer = act ? setTimeout(() => ((this.timer = 0), act()), ms) : 0;
  }

  #take(answer) {
    this.resolved = answer;
    this.dispatchEvent(new Event("resolved"));
    if (answer.search) this.#wait(SEARCHING, () => this.refresh());
  }

  #draw(recipe) {
    this.recipe = recipe;
    this.dispatchEvent(new Event("drawable"));
  }
}

/** The values of a recipe that a base fractal brings with it. */
export function baseValues(ifs) {
  return { ifs, sigma: Number(sigma(ifs.maps).toPrecision(15)), maps: ifs.maps.length };
}
