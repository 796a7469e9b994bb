// The grid of 16 images beside the large picture: any range of classes (or of another axis of the index).

import { newest, postForImages } from "./api.js";
import { byId, count, element, percent, report } from "./elements.js";
import { differenceData, imagesOf, paint, toImageData } from "./pictures.js";
import { words } from "./controls.js";

export const GRID = 16;

export class Grid {
  constructor(state, model, flicker) {
    Object.assign(this, { state, model, flicker, images: [], bases: [] });
    this.place = byId("grid");
    flicker.addEventListener("turn", () => this.show());
    byId("grid-first").addEventListener("change", (event) => this.move(Number(event.target.value) || 0));
    byId("grid-back").addEventListener("click", () => this.move(state.view.first - GRID));
    byId("grid-on").addEventListener("click", () => this.move(state.view.first + GRID));
    byId("grid-axis").addEventListener("change", (event) => {
      state.set({ view: { axis: event.target.value, first: 0 } }, { push: true });
    });
  }

  /** Whether each image is shown against the base, which is drawn in that image's own patch masks then. */
  get comparesWithBase() {
    return this.state.view.compare !== "images" && this.model.hasBase;
  }

  /** Go to another range, clamped to what there is. */
  move(first) {
    const last = Math.max(this.model.axes[this.model.gridAxis].size - 1, 0);
    const clamped = Math.min(Math.max(Math.round(first), 0), last);
    byId("grid-first").value = String(clamped); // as it is shown while somebody types there too
    this.state.set({ view: { first: clamped } }, { push: true });
  }

  /** Ask for the images and draw them. */
  async draw() {
    const { recipe, gridIndices: indices, inputAt: started } = this.model;
    if (indices.length === 0) return;
    const asked = { recipe, indices, with_base: this.comparesWithBase };
    try {
      const answer = await newest("grid", (stamp) => postForImages("/api/images", { ...asked, ...stamp }));
      if (!answer) return;
      report("grid", "");
      const drawn = imagesOf(answer);
      this.images = asked.with_base ? drawn.filter((_, place) => place % 2 === 0) : drawn;
      this.bases = asked.with_base ? drawn.filter((_, place) => place % 2 === 1) : [];
      this.show();
      if (started) performance.measure("fracgen:input-to-grid", { start: started });
    } catch (error) {
      report("grid", error.message);
    }
  }

  /** Show the images as they are, against the base, or in turn with it. */
  show() {
    while (this.place.children.length < this.images.length) this.place.append(this.#tile());
    while (this.place.children.length > this.images.length) this.place.lastChild.remove();
    this.images.forEach((image, place) => this.#paint(this.place.children[place], image, this.bases[place]));
    this.#range();
  }

  #tile() {
    const tile = element("button", { type: "button", class: "tile" }, element("canvas", {}), element("span", { class: "caption" }));
    tile.addEventListener("click", () => {
      const index = Number(tile.dataset.index);
      this.state.set({ view: { shown: this.state.view.shown === index ? -1 : index } }, { push: true });
    });
    return tile;
  }

  #paint(tile, image, base) {
    const { compare } = this.state.view;
    const [canvas, caption] = tile.children;
    const isBase = compare === "flicker" && this.flicker.showsBase && base;
    const data = (compare === "difference" && differenceData(image, base)) || toImageData(isBase ? base : image);
    paint(canvas, data);
    canvas.dataset.index = image.index;
    tile.dataset.index = image.index;
    const name = `${words(this.model.axes[this.model.gridAxis].name)} ${this.model.placesOf(image.index)[this.model.gridAxis]}`;
    const { fill } = image;
    const isSearched = Boolean(image.error && this.model.resolved?.search);
    const note = isSearched ? "not found yet" : image.error ? "cannot be rendered" : fill === undefined ? "" : percent(fill);
    caption.replaceChildren(element("b", {}, name.split(" ").at(-1)), element("span", {}, note));
    tile.title = image.error ?? describe(image);
    tile.classList.toggle("failed", Boolean(image.error) && !isSearched);
    tile.setAttribute("aria-label", `${name}, ${note || "image"}; shows it large`);
    tile.setAttribute("aria-pressed", String(this.state.view.shown === image.index));
  }

  #range() {
    const { axes, gridAxis } = this.model;
    const { size } = axes[gridAxis];
    const first = Math.min(this.state.view.first, size - 1);
    const [from, to] = [byId("grid-first"), byId("grid-last")];
    if (document.activeElement !== from) from.value = String(first);
    to.textContent = `to ${count(Math.min(first + GRID, size) - 1)} / ${count(size)}`;
    byId("grid-back").disabled = first === 0;
    byId("grid-on").disabled = first + GRID >= size;
    const select = byId("grid-axis");
    const names = axes.map(({ name }) => name);
    if ([...select.options].map(({ value }) => value).join() !== names.join()) {
      select.replaceChildren(...names.map((name) => element("option", { value: name }, words(plural(name)))));
    }
    select.value = names[gridAxis];
    select.hidden = names.length < 2;
    byId("grid-name").textContent = names.length < 2 ? words(plural(names[0])) : "";
  }
}

function plural(name) {
  return name.endsWith("y") ? `${name.slice(0, -1)}ies` : name.endsWith("s") ? `${name}es` : `${name}s`;
}

function describe({ index, label, metadata = {} }) {
  const parts = Object.entries(metadata).filter(([, value]) => typeof value !== "object");
  return [`index ${index}, label ${label}`, ...parts.map(([name, value]) => `${words(name)} ${value}`)].join("\n");
}
