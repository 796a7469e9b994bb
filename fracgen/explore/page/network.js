// As the network sees them: images after the augmentation of pre-training, several draws of each.

import { newest, postForImages } from "./api.js";
import { buildControls } from "./controls.js";
import { byId, element, report } from "./elements.js";
import { imagesOf, paint, toImageData } from "./pictures.js";

const IMAGES = 4;
const MOST_DRAWS = 8;

export class Network {
  constructor(state, model) {
    Object.assign(this, { state, model });
    const { augment, extras, folder } = state.session;
    byId("network-none").hidden = Boolean(extras.train);
    byId("network").hidden = !extras.train;
    this.mixNames = new Set((augment?.mix_fields ?? []).map(({ name }) => name));
    const fields = state.augmentFields.map((field) => {
      return { ...field, panel: this.mixNames.has(field.name) ? "Mixing of a batch" : "Each image" };
    });
    const change = (name, value, options) => state.set({ augment: { [name]: value } }, options);
    this.showControls = buildControls(byId("network-controls"), fields, change);
    byId("network-source").hidden = !folder;
    byId("network-folder").addEventListener("change", (event) => state.set({ view: { ofFolder: event.target.checked } }));
    byId("network-back").addEventListener("click", () => this.#move(-IMAGES));
    byId("network-on").addEventListener("click", () => this.#move(IMAGES));
    byId("network-again").addEventListener("click", () => state.set({ view: { drawSeed: state.view.drawSeed + 1 } }));
    byId("network-draws").addEventListener("change", (event) => {
      const draws = Math.min(Math.max(Math.round(Number(event.target.value)) || 4, 1), MOST_DRAWS);
      event.target.value = String(draws);
      state.set({ view: { draws } }, { push: true });
    });
  }

  /** What the pictures depend on, beside the recipe. */
  get key() {
    return JSON.stringify(this.#asked);
  }

  /** Ask for the augmented images and draw them. */
  async draw() {
    if (!this.state.session.extras.train) return;
    const ofFolder = this.#ofFolder;
    const asked = this.#asked;
    const { draws } = asked;
    byId("network-draws").value = String(draws);
    byId("network-folder").checked = ofFolder;
    byId("network-range").textContent = `${asked.indices[0]} to ${asked.indices.at(-1)}`;
    this.showControls(this.#values);
    const recipe = ofFolder ? {} : { recipe: this.model.recipe };
    try {
      const answer = await newest("network", (stamp) => postForImages("/api/augmented", { ...recipe, ...asked, ...stamp }));
      if (!answer) return;
      report("network", "");
      this.#show(imagesOf(answer), draws);
    } catch (error) {
      report("network", error.message);
    }
  }

  get #values() {
    return Object.fromEntries(this.state.augmentFields.map(({ name, default: usual }) => [name, this.state.augment[name] ?? usual]));
  }

  // A link may be of a page with a folder, or with a larger one.
  get #ofFolder() {
    return this.state.view.ofFolder && Boolean(this.state.session.folder);
  }

  get #asked() {
    const { drawSeed: seed, sample } = this.state.view;
    const ofFolder = this.#ofFolder;
    const draws = Math.min(Math.max(this.state.view.draws, 1), MOST_DRAWS);
    const entries = Object.entries(this.#values);
    const split = (isOfMix) => Object.fromEntries(entries.filter(([name]) => this.mixNames.has(name) === isOfMix));
    const last = (this.state.session.folder?.num_samples ?? 0) - 1;
    const numbers = Array.from({ length: IMAGES }, (_, place) => Math.min(sample, last) + place);
    const indices = ofFolder ? numbers.filter((number) => number <= last) : this.model.gridIndices.slice(0, IMAGES);
    return { indices, draws, seed, augment: split(false), mix: split(true) };
  }

  #move(by) {
    const { view, session } = this.state;
    const [name, size] = this.#ofFolder
      ? ["sample", session.folder.num_samples]
      : ["first", this.model.axes[this.model.gridAxis].size];
    this.state.set({ view: { [name]: Math.min(Math.max(view[name] + by, 0), size - 1) } }, { push: true });
  }

  #show(images, draws) {
    const rows = [];
    for (let start = 0; start < images.length; start += draws) {
      const cells = images.slice(start, start + draws).map((image, draw) => {
        const partner = typeof image.partner === "number" ? `, mixed with ${image.partner}` : "";
        const name = `image ${image.index}, draw ${draw + 1}${partner}`;
        const canvas = element("canvas", { role: "img", "aria-label": name });
        paint(canvas, toImageData(image));
        return element("td", {}, element("figure", { class: "tile", title: name }, canvas));
      });
      rows.push(element("tr", {}, element("th", { scope: "row" }, String(images[start].index)), ...cells));
    }
    byId("network-grid").style.setProperty("--columns", draws);
    byId("network-grid").replaceChildren(element("tbody", {}, ...rows));
  }
}
