// One picture at several values of two fields, as a table; a click takes its values. Of 1p-frac: sigma and delta, on one
// base fractal.

import { newest, postForFile, postForImages } from "./api.js";
import { words } from "./controls.js";
import { byId, copy, download, element, report, short } from "./elements.js";
import { imagesOf, paint, toImageData } from "./pictures.js";

const SIGNS = { sigma: "\u03c3", delta: "\u0394" };
const OF_SEED = ["sigma", "maps", "seed"]; // of a base that is none of its seed they cannot be swept
const USUAL = { delta: [0.01, 0.05, 0.1, 0.2], sigma: [3, 3.5, 4, 5] };
const FIRST = {
  "1p-frac": ["sigma", "delta"],
  fractaldb: ["draw", "points"],
  ofdb: ["draw", "points"],
  visualatom: ["max_orbits", "max_vertices"],
  rcdb: ["max_noise", "max_radius"],
  exfractaldb: ["views", "points"],
  multifractal: ["composition", "points"],
  perturbed: ["perturbation", "delta"],
  noise: ["kind", "std"],
  photo: ["warp", "strength"],
};

export class Sweep {
  constructor(state, model) {
    Object.assign(this, { state, model });
    for (const axis of ["rows", "columns"]) {
      byId(`sweep-${axis}`).addEventListener("change", (event) => {
        state.set({ view: { [axis]: event.target.value, [`${axis.slice(0, -1)}Values`]: "" } }, { push: true });
      });
      byId(`sweep-${axis}-values`).addEventListener("change", (event) => {
        state.set({ view: { [`${axis.slice(0, -1)}Values`]: event.target.value } }, { push: true });
      });
    }
    byId("sweep-save").addEventListener("click", () => this.#save());
    byId("sweep-copy").addEventListener("click", (event) => copy(byId("sweep-command").textContent, event.currentTarget));
  }

  /** Ask for the table's pictures and draw them. */
  async draw() {
    const axes = ["rows", "columns"].map((axis, place) => this.#axis(axis, place));
    for (const axis of axes) this.#controls(axis);
    this.axes = axes;
    try {
      const answer = await newest("sweep", (stamp) => postForImages("/api/sweep", { ...this.#asked, ...stamp }));
      if (!answer) return;
      report("sweep", "");
      this.#show(imagesOf(answer), axes);
      byId("sweep-command").textContent = answer.info.command ?? "";
      byId("sweep-out").hidden = !answer.info.command;
    } catch (error) {
      report("sweep", error.message);
    }
  }

  get #asked() {
    const sweep = Object.fromEntries(this.axes.map(({ field, values }) => [field.name, values]));
    const base = this.model.baseNumber ?? undefined;
    return { recipe: this.model.recipe, sweep, index: Math.max(this.model.largeIndex, 0), base };
  }

  // Which field an axis has, and its values.
  #axis(axis, place) {
    const { view, fields, recipe } = this.state;
    const isOwn = recipe === "1p-frac" && this.model.baseNumber === null;
    const choosable = fields.filter(({ name, sweeps }) => sweeps && !(isOwn && OF_SEED.includes(name)));
    const usual = isOwn ? ["perturbation", "delta"][place] : FIRST[recipe]?.[place];
    const named = (name) => choosable.find((field) => field.name === name);
    const others = choosable.filter((each) => place === 0 || each !== this.rowField);
    const field = [named(view[axis]), named(usual), ...others].find((each) => others.includes(each));
    if (place === 0) this.rowField = field;
    const typed = view[`${axis.slice(0, -1)}Values`];
    return { axis, field, choosable, values: this.#values(axis, field, typed) };
  }

  #values(axis, field, typed) {
    const usual = usualValues(field, this.state.values[field.name]);
    const texts = typed.split(/[,\s]+/).filter(Boolean);
    if (texts.length === 0) return usual;
    const read = { choice: (text) => text, bool: (text) => text === "true" }[field.type] ?? Number;
    const values = texts.map(read);
    const most = this.state.session.limits.values;
    const isGood = values.length <= most && !values.some((value) => Number.isNaN(value));
    report(`sweep-${axis}`, isGood ? "" : `${words(field.name)} "${typed}": give 1 to ${most} values with commas between them`);
    return isGood ? values : usual;
  }

  #controls({ axis, field, choosable, values }) {
    const select = byId(`sweep-${axis}`);
    const names = choosable.map(({ name }) => name).join();
    if (select.dataset.names !== names) {
      select.dataset.names = names;
      select.replaceChildren(...choosable.map(({ name }) => element("option", { value: name }, words(name))));
    }
    select.value = field.name;
    const box = byId(`sweep-${axis}-values`);
    if (document.activeElement !== box) box.value = values.join(", ");
  }

  #show(images, [{ field: rowField, values: rows }, { field: columnField, values: columns }]) {
    const title = (field, value) => `${SIGNS[field.name] ?? words(field.name)} ${typeof value === "number" ? short(value) : value}`;
    const head = element("tr", {}, element("td", {}));
    for (const value of columns) head.append(element("th", { scope: "col" }, title(columnField, value)));
    const lines = rows.map((row, y) => {
      const cells = columns.map((column, x) => {
        const values = { [rowField.name]: row, [columnField.name]: column };
        const name = `${title(rowField, row)}, ${title(columnField, column)}`;
        return element("td", {}, this.#cell(images[y * columns.length + x], values, name));
      });
      const name = title(rowField, row);
      const shown = SIGNS[rowField.name] || typeof row === "number" ? name : String(row);
      return element("tr", {}, element("th", { scope: "row", title: name }, shown), ...cells);
    });
    byId("sweep-table").style.setProperty("--columns", columns.length);
    byId("sweep-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...lines));
  }

  #cell(image, values, name) {
    const canvas = element("canvas");
    paint(canvas, toImageData(image));
    const properties = { type: "button", class: "tile", title: image.error ?? name, "aria-label": `${name}: explore it` };
    const cell = element("button", properties, canvas);
    if (image.error) cell.append(element("span", { class: "caption" }, element("span", {}, image.error)));
    cell.classList.toggle("failed", Boolean(image.error));
    cell.addEventListener("click", () => {
      const taken = this.model.isOfSeveral ? values : image.recipe; // that of the cell is of one base
      this.state.set({ values: taken, view: { tab: "explore", shown: -1 } }, { push: true });
    });
    return cell;
  }

  async #save() {
    try {
      download("sweep.png", await postForFile("/api/sweep.png", this.#asked));
    } catch (error) {
      report("sweep", error.message);
    }
  }
}

function usualValues(field, current) {
  if (USUAL[field.name]) return USUAL[field.name];
  if (field.type === "bool") return [false, true];
  if (field.type === "choice") return field.choices;
  const { min, max } = field.slider;
  const middle = current ?? field.default ?? min;
  const values = [0.5, 1, 1.5, 2].map((factor) => Math.min(Math.max(middle * factor, min), max));
  const rounded = values.map((value) => (field.type === "int" ? Math.round(value) : Number(value.toPrecision(3))));
  return [...new Set(rounded)];
}
