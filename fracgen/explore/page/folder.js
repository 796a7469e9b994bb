// The samples of a folder, as they lie in its tars: by their numbers, of all classes or of one.

import { newest, post, postForImages } from "./api.js";
import { byId, count, element, percent, report, short } from "./elements.js";
import { imagesOf, paint, toImageData } from "./pictures.js";
import { words } from "./controls.js";

const PAGE = 24;
const MOST_LABELS = 50_000; // of the list of classes; any sample is found by its number

export class Folder {
  constructor(state) {
    this.state = state;
    this.total = 0;
    this.selected = null;
    const { folder } = state.session;
    byId("tab-folder").hidden = !folder;
    if (!folder) return;
    byId("folder-about").textContent = about(folder);
    this.#listClasses(folder);
    const go = (to) => {
      const sample = Math.min(Math.max(to, 0), Math.max(this.total - 1, 0));
      byId("folder-first").value = String(sample); // where it is as before, nothing is drawn anew
      state.set({ view: { sample } }, { push: true });
    };
    byId("folder-first").addEventListener("change", (event) => go(Math.round(Number(event.target.value)) || 0));
    byId("folder-back").addEventListener("click", () => go(state.view.sample - PAGE));
    byId("folder-on").addEventListener("click", () => go(state.view.sample + PAGE));
    byId("folder-label").addEventListener("change", (event) => {
      state.set({ view: { label: event.target.value, sample: 0 } }, { push: true });
    });
    byId("folder-recipe").hidden = !folder.recipe;
    byId("folder-recipe").addEventListener("click", () => this.#takeRecipe(folder.recipe));
  }

  /** Ask for the samples and draw them. */
  async draw() {
    if (!this.state.session.folder) return;
    const { folder } = this.state.session;
    const { sample: offset } = this.state.view;
    const label = Number(this.state.view.label) < folder.num_classes ? this.state.view.label : ""; // a link may say any
    byId("folder-label").value = label;
    const chosen = label === "" ? {} : { label: Number(label) };
    try {
      const listed = await newest("folder", async (stamp) => {
        const page = await post("/api/folder", { offset, count: PAGE, ...chosen, ...stamp });
        const numbers = page.samples.map(({ number }) => number);
        if (numbers.length === 0) return { page, images: [] };
        return { page, images: imagesOf(await postForImages("/api/folder/images", { numbers, ...stamp })) };
      });
      if (!listed) return;
      report("folder", "");
      this.#show(listed, offset);
    } catch (error) {
      report("folder", error.message);
    }
  }

  #listClasses({ num_classes: total, class_names: names }) {
    const list = byId("folder-label");
    list.append(element("option", { value: "" }, "all classes"));
    for (let label = 0; label < Math.min(total, MOST_LABELS); label++) {
      const name = names?.[label];
      list.append(element("option", { value: String(label) }, name && name !== String(label) ? `${label} (${name})` : String(label)));
    }
  }

  #show({ page, images }, offset) {
    this.total = page.total;
    const first = byId("folder-first");
    if (document.activeElement !== first) first.value = String(offset);
    byId("folder-last").textContent = `to ${count(Math.max(offset + page.samples.length - 1, 0))} of ${count(this.total)}`;
    byId("folder-back").disabled = offset === 0;
    byId("folder-on").disabled = offset + PAGE >= this.total;
    const tiles = page.samples.map((sample, place) => this.#tile(sample, images[place]));
    byId("folder-grid").replaceChildren(...tiles);
    if (page.samples.length > 0) void this.#select(tiles[0], page.samples[0], images[0]);
  }

  #tile(sample, image) {
    const canvas = element("canvas", { "data-number": sample.number });
    if (image) paint(canvas, toImageData(image));
    const note = sample.error ? "damaged" : `class ${sample.class_name}`;
    const caption = element("span", { class: "caption" }, element("b", {}, String(sample.number)), element("span", {}, note));
    const properties = { type: "button", class: "tile", "aria-label": `sample ${sample.number}, ${note}`, title: sample.error };
    const tile = element("button", properties, canvas, caption);
    tile.classList.toggle("failed", Boolean(sample.error));
    tile.addEventListener("click", () => this.#select(tile, sample, image));
    return tile;
  }

  async #select(tile, sample, image) {
    for (const other of byId("folder-grid").children) other.setAttribute("aria-pressed", String(other === tile));
    if (image) paint(byId("folder-large"), toImageData(image));
    const { metadata, class_name: name, ...rest } = sample;
    const facts = { ...rest, class: name, ...metadata };
    const rows = Object.entries(facts).map(([key, value]) => element("tr", {}, element("th", { scope: "row" }, words(key)), element("td", {}, text(key, value))));
    byId("folder-facts").replaceChildren(element("tbody", {}, ...rows));
    await this.#enlarge(sample.number);
  }

  // The sample in all its pixels; those of the list are reduced where they are many.
  async #enlarge(number) {
    const canvas = byId("folder-large");
    try {
      const ask = (stamp) => postForImages("/api/folder/images", { numbers: [number], size: 0, ...stamp });
      const answer = await newest("sample", ask);
      if (!answer) return;
      const [image] = imagesOf(answer);
      paint(canvas, toImageData(image));
      canvas.dataset.number = number;
      canvas.setAttribute("aria-label", `Sample ${number}, ${image.width} by ${image.height} pixels`);
    } catch (error) {
      report("folder", error.message);
    }
  }

  #takeRecipe(recipe) {
    const { ifs = null, ...values } = recipe;
    this.state.values = { ...values, ifs };
    this.state.set({ values: {}, view: { tab: "explore", shown: -1, first: 0, axis: "", at: [] } }, { push: true });
  }
}

function about({ name, num_samples: samples, num_classes: classes, packed, width, height, one_size: isOneSize }) {
  const parts = [`${count(samples)} samples`, `${count(classes)} classes`];
  if (isOneSize) parts.push(`${width} \u00d7 ${height} px`);
  if (packed) parts.push("packed from files");
  return `${name}: ${parts.join(", ")}`;
}

function text(key, value) {
  if (value === undefined) return "-";
  if (key === "fill_rate") return percent(value);
  if (Array.isArray(value)) return value.flat(3).map((each) => (typeof each === "number" ? short(each) : each)).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
