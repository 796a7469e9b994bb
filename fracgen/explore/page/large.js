// The large picture: the base fractal or one image, by itself, as its difference to the base, or in turn with it; and the
// badges that say what it is.

import { newest, postForImages } from "./api.js";
import { byId, count, element, fixed, percent, report, short } from "./elements.js";
import { sigma, singularValues } from "./linear.js";
import { colourOf, Frames, isBounded } from "./frames.js";
import { differenceData, imagesOf, paint, toImageData } from "./pictures.js";

export class Large {
  constructor(state, model, flicker) {
    Object.assign(this, { state, model, flicker, base: null, image: null });
    this.canvas = byId("large");
    this.frames = new Frames(byId("frames"), this.canvas, model);
    flicker.addEventListener("turn", () => this.show());
    model.addEventListener("resolved", () => {
      this.badges();
      this.show();
    });
  }

  /** Ask for the base and for the image that is shown, and draw them. */
  async draw() {
    const { recipe, largeIndex } = this.model;
    const [started, hasBase] = [this.model.inputAt, this.model.hasBase];
    const indices = [...(hasBase ? [-1] : []), ...(largeIndex >= 0 ? [largeIndex] : [])];
    const asked = { recipe, indices, mask_index: Math.max(largeIndex, 0) }; // the base in the masks of the image
    try {
      const answer = await newest("base", (stamp) => postForImages("/api/images", { ...asked, ...stamp }));
      if (!answer) return;
      report("base", "");
      const images = imagesOf(answer);
      this.base = hasBase ? images[0] : null;
      this.image = largeIndex >= 0 ? images.at(-1) : null;
      this.frames.place(this.base, recipe.ifs?.maps ? recipe.ifs : null); // of several bases there is only a name
      this.show();
      this.badges();
      if (started) performance.measure("fracgen:input-to-base", { start: started });
    } catch (error) {
      report("base", error.message);
    }
  }

  /** Show what was drawn last, as the view says. */
  show() {
    const compare = this.image && this.base && !this.#standsIn ? this.state.view.compare : "images";
    const isBase = this.#standsIn || (compare === "flicker" && this.flicker.showsBase);
    const shown = isBase ? this.base : (this.image ?? this.base);
    if (!shown) return;
    const data = (compare === "difference" && differenceData(this.image, this.base)) || toImageData(shown);
    paint(this.canvas, data);
    this.canvas.dataset.index = shown.index;
    this.canvas.setAttribute("aria-label", this.#describe(compare));
    byId("large-title").textContent = this.#title();
    const isFramed = this.state.view.frames && !this.image && isBounded(this.base);
    byId("frames").toggleAttribute("hidden", !isFramed);
    byId("easel").classList.toggle("framed", isFramed);
    byId("large-error").textContent = (this.image ?? shown).error ?? "";
    byId("show-base").hidden = !(this.image && this.model.resolved?.base);
  }

  // Whether one of several bases is shown in the place of its image, which cannot be rendered.
  get #standsIn() {
    return Boolean(this.model.isOfSeveral && this.image?.error && this.base);
  }

  #title() {
    if (this.#standsIn) return `base ${this.model.basePlace} itself`;
    if (!this.image) {
      const { baseNumber, state } = this.model;
      return baseNumber === null ? "Base of your own" : `Base ${baseNumber} of seed ${state.values.seed}`;
    }
    const places = this.model.placesOf(this.image.index);
    return this.model.axes.map(({ name }, axis) => `${name} ${places[axis]}`).join(", ");
  }

  #describe(compare) {
    const how = { images: "", difference: ", difference to the base", flicker: ", in turn with the base" }[compare];
    return `${this.#title()}${how}, ${this.canvas.width} by ${this.canvas.height} pixels`;
  }

  /** The badges beneath the picture: of the base, or of the image that is shown. */
  badges() {
    const place = byId("badges");
    const about = this.model.resolved?.base;
    place.replaceChildren();
    if (this.image) place.append(...imageBadges(this.image));
    if (this.image && this.model.isOfSeveral) place.append(...this.#badgesOfBase());
    if (!about || this.image) return;
    const fill = this.base?.fill ?? about.fill;
    const wanted = this.model.state.values.min_fill;
    const acceptance = about.acceptance;
    place.append(badge("Fill", percent(fill), fill > wanted ? "good" : "bad", `more than ${percent(wanted)} is kept`));
    if (acceptance?.tried === 0) {
      place.append(badge("Accepted", "\u2026", "", "Perturbations are tried when the slider rests"));
    } else if (acceptance) {
      place.append(this.#accepted(acceptance));
    }
    const ifs = this.model.ifs;
    if (ifs) place.append(...mapBadges(ifs.maps));
    if (about.passes === false) place.append(element("p", { class: "verdict" }, about.reason ?? "does not pass"));
  }

  // Of several: of the base of the image, which was found or given.
  #badgesOfBase() {
    const share = this.model.resolved.provenance.base_acceptances?.[this.model.basePlace];
    const { probes } = this.state.session;
    const accepted = share === undefined ? [] : [this.#accepted({ kept: Math.round(share * probes), tried: probes })];
    return [...accepted, ...mapBadges(this.base?.maps ?? [])];
  }

  #accepted({ kept, tried }) {
    const state = kept / tried >= (this.model.state.values.min_acceptance ?? 0) ? "good" : "bad";
    const title = "Perturbations of this base that pass the fill test, of those that were tried";
    return badge("Accepted", `${kept} of ${tried}`, state, title);
  }
}

function mapBadges(maps) {
  const chips = maps.slice(0, 8).map((map, number) => {
    const [s1] = singularValues(map);
    const chip = badge(`Map ${number + 1}`, fixed(s1), s1 < 1 ? "" : "bad", "Contraction: the largest singular value");
    chip.style.setProperty("--swatch", colourOf(number));
    chip.classList.add("swatch");
    return chip;
  });
  return [badge("\u03c3", short(sigma(maps), 6), "", "Sigma-factor of the base as it is"), ...chips];
}

/** A badge: a name, a value, and whether it is "good" or "bad" (in words too, for who does not see the colour). */
export function badge(name, value, state = "", title = "") {
  const mark = { good: "\u2713 ", bad: "\u2717 " }[state] ?? "";
  const spoken = { good: "passes: ", bad: "fails: " }[state];
  return element(
    "span",
    { class: `badge ${state}`, title },
    element("b", {}, name),
    element("span", { "aria-hidden": "true" }, mark),
    spoken ? element("span", { class: "unseen" }, spoken) : null,
    value,
  );
}

function imageBadges(image) {
  if (image.error) return [badge("Index", count(image.index))];
  const { metadata = {} } = image;
  const chips = [badge("Index", count(image.index)), badge("Label", count(image.label))];
  for (const [name, value] of Object.entries(metadata)) {
    if (["formula", "mask_key", "base", "perturbation"].includes(name) || typeof value === "object") continue;
    const isShare = name === "fill_rate";
    chips.push(badge(name.replaceAll("_", " "), isShare ? percent(value) : typeof value === "number" ? short(value) : value));
  }
  return chips;
}
