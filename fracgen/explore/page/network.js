// As the network sees them: the images after the augmentation of pre-training, several draws of each.

import { newest, postForImages } from "./api.js";
import { buildControls } from "./controls.js";
import { byId, element, report } from "./elements.js";
import { imagesOf, paint, toImageData } from "./pictures.js";

const IMAGES = 4;

export class Network {
  constructor(state, model) {
    Object.assign(this, { state, model, settings: {}, showControls: null });
    const { augment, extras } = state.session;
    byId("network-none").hidden = Boolean(extras.train);
    byId("network").hidden = !extras.train;
    if (!extras.train) return;
    this.mixNames = new Set((augment?.mix_fields ?? []).map(({ name }) => name));
    const fields = [
      ...(augment?.fields ?? []).map((field) => ({ ...field, panel: "Each image" })),
      ...(augment?.mix_fields ?? []).map((field) => ({ ...field, panel: "Mixing of a batch" })),
    ];
    this.settings = Object.fromEntries(fields.map((field) => [field.name, field.default]));
    this.showControls = buildControls(byId("network-controls"), fields, (name, value) => {
      this.settings[name] = value;
      this.showControls(this.settings);
      void this.draw();
    });
    this.showControls(this.settings);
    byId("network-draws").addEventListener("change", (event) => {
      state.set({ view: { draws: Math.min(Math.max(Math.round(Number(event.target.value)) || 4, 1), 8) } }, { push: true });
    });
  }

  /** Ask for the augmented images and draw them. */
  async draw() {
    if (!this.state.session.extras.train) return;
    const { draws } = this.state.view;
    byId("network-draws").value = String(draws);
    const { recipe } = this.model;
    const indices = this.model.gridIndices.slice(0, IMAGES);
    byId("network-grid").setAttribute("aria-busy", "true");
    try {
      const ask = (stamp) => postForImages("/api/augmented", { recipe, indices, draws, ...this.#settings, ...stamp });
      const answer = await newest("network", ask);
      if (!answer) return;
      report("network", "");
      this.#show(imagesOf(answer), draws);
    } catch (error) {
      report("network", error.message);
    } finally {
      byId("network-grid").removeAttribute("aria-busy");
    }
  }

  get #settings() {
    const split = (isOfMix) => Object.fromEntries(Object.entries(this.settings).filter(([name]) => this.mixNames.has(name) === isOfMix));
    return { augment: split(false), mix: split(true) };
  }

  #show(images, draws) {
    const rows = [];
    for (let start = 0; start < images.length; start += draws) {
      const cells = images.slice(start, start + draws).map((image, draw) => {
        const name = `image ${image.index}, draw ${draw + 1}`;
        const canvas = element("canvas", { role: "img", "aria-label": image.caption ? `${name}: ${image.caption}` : name });
        paint(canvas, toImageData(image));
        return element("td", {}, element("figure", { class: "tile", title: image.caption ?? name }, canvas));
      });
      rows.push(element("tr", {}, element("th", { scope: "row" }, `index ${images[start].index}`), ...cells));
    }
    byId("network-grid").replaceChildren(element("tbody", {}, ...rows));
  }
}
