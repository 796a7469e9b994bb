// Controls made of a recipe's fields: a slider and a number for what has a range, a list for a choice, a box for yes or
// no. A value outside its range is clamped, and a line where it was typed says so.

import { element, short } from "./elements.js";

const STEPS = 200; // of a slider that goes by ratios
const TOUCH = matchMedia("(hover: none)"); // no tooltip comes up: a tap on a field's name shows its help

/**
 * Controls of `fields`, in one group per panel. change(name, value, {live}) is called for each input.
 * Returns show(values), which shows other values.
 */
export function buildControls(place, fields, change) {
  const panels = new Map();
  for (const field of fields) {
    const panel = field.panel ?? "Other";
    panels.set(panel, [...(panels.get(panel) ?? []), field]);
  }
  const controls = new Map();
  const prefix = place.dataset.prefix;
  place.replaceChildren();
  for (const [panel, members] of panels) {
    const group = element("details", { open: panels.size < 3 || ["Formula", "Image"].includes(panel), class: "panel" });
    group.append(element("summary", {}, panel));
    for (const field of members) {
      const control = controlOf(field, `${prefix}-${field.name}`, change);
      controls.set(field.name, control);
      group.append(control.root);
    }
    place.append(group);
  }
  return (values) => {
    for (const [name, control] of controls) control.show(values[name]);
  };
}

function controlOf(field, id, change) {
  const note = element("p", { class: "note", id: `${id}-note`, role: "status" });
  const help = element("p", { class: "help", id: `${id}-help`, hidden: true }, field.help);
  const label = element("label", { htmlFor: id, title: field.help }, words(field.name));
  label.addEventListener("click", (event) => {
    if (!TOUCH.matches) return;
    event.preventDefault(); // no keyboard comes up
    help.hidden = !help.hidden;
  });
  const described = { "aria-describedby": `${id}-help ${id}-note`, title: field.help };
  const parts = KINDS[field.type === "int" ? "float" : field.type] ?? KINDS.text;
  const { inputs, show } = parts(field, id, described, (value, options = {}, line = "") => {
    note.textContent = line;
    change(field.name, value, options);
  });
  const root = element("div", { class: `field field-${field.type}`, "data-field": field.name }, label, ...inputs, help, note);
  return { root, show };
}

const KINDS = {
  float: numberControl,
  choice(field, id, described, send) {
    const select = element("select", { id, ...described, onchange: () => send(read(select.value), { push: true }) });
    const read = (text) => field.choices.find((choice) => String(choice) === text) ?? null;
    for (const choice of field.choices) select.append(element("option", { value: String(choice) }, words(String(choice))));
    return { inputs: [select], show: (value) => (select.value = String(value)) };
  },
  bool(field, id, described, send) {
    const box = element("input", { id, type: "checkbox", ...described, onchange: () => send(box.checked, { push: true }) });
    return { inputs: [box], show: (value) => (box.checked = value === true) };
  },
  text(field, id, described, send) {
    const isList = field.type === "numbers";
    const box = element("input", { id, type: "text", ...described, spellcheck: false });
    box.addEventListener("change", () => {
      const numbers = box.value.split(",").map(Number);
      if (!isList) send(box.value, { push: true });
      else if (box.value !== "" && numbers.every(Number.isFinite)) send(numbers, { push: true }, "");
      else send(field.default, { push: true }, `"${box.value}" is no list of numbers: ${(field.default ?? []).join(", ")} taken`);
    });
    return { inputs: [box], show: (value) => keep(box, Array.isArray(value) ? value.join(", ") : (value ?? "")) };
  },
};

function numberControl(field, id, described, send) {
  const whole = field.type === "int";
  const number = element("input", { id, type: "text", inputMode: whole ? "numeric" : "decimal", ...described });
  number.autocomplete = "off";
  number.placeholder = field.default === null || field.default === undefined ? "auto" : "";
  const slider = sliderOf(field, id, (value) => {
    keep(number, short(value, 8));
    send(value, { live: true });
  });
  slider?.input.addEventListener("change", () => send(slider.value, { push: true }));
  number.addEventListener("change", () => {
    const [value, line] = clamp(field, number.value.trim(), whole);
    number.value = value === null ? "" : String(value);
    send(value, { push: true }, line);
  });
  number.addEventListener("keydown", (event) => {
    const direction = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!direction) return;
    event.preventDefault();
    const step = (slider?.step ?? (whole ? 1 : 0.1)) * (event.shiftKey ? 10 : 1);
    const current = Number(number.value) || 0;
    const [value] = clamp(field, String(Number((current + direction * step).toPrecision(10))), whole);
    number.value = String(value);
    send(value, { live: false });
  });
  return {
    inputs: slider ? [slider.input, number] : [number],
    show(value) {
      keep(number, value === null || value === undefined ? "" : short(value, whole ? 15 : 6));
      number.title = typeof value === "number" ? `${value}\n${field.help}` : field.help;
      slider?.show(value ?? field.default ?? slider.low);
    },
  };
}

/** [a number in the range of a field, or null for none; the line that says what was made of what was typed]. */
export function clamp(field, text, whole) {
  const usual = field.default ?? null;
  if (text === "") return [usual, ""];
  let value = Number(text.replace(",", "."));
  if (Number.isNaN(value)) return [usual, `"${text}" is no number: ${usual === null ? "auto" : short(usual, 8)} taken`];
  if (whole) value = Math.round(Math.min(Math.max(value, -Number.MAX_SAFE_INTEGER), Number.MAX_SAFE_INTEGER));
  const tiny = whole ? 1 : 1e-6;
  const low = field.at_least ?? (typeof field.above === "number" ? field.above + tiny : -Infinity);
  const high = field.at_most ?? (typeof field.below === "number" ? field.below - tiny : Infinity);
  const clamped = Math.min(Math.max(value, low), high);
  if (!Number.isFinite(clamped)) return [usual, `${text} is no finite number: ${short(usual, 8)} taken`];
  if (clamped === value) return [value, ""];
  return [clamped, `${text} is outside ${bounds(field)}: ${short(clamped, 8)} taken`];
}

function bounds({ at_least, at_most, above, below }) {
  const least = typeof at_least === "number" ? `${short(at_least, 8)}` : typeof above === "number" ? `above ${above}` : "";
  const most = typeof at_most === "number" ? short(at_most, 8) : typeof below === "number" ? `below ${below}` : "";
  return least && most ? `${least} to ${most}` : least ? `at least ${least}` : `at most ${most}`;
}

// null where a field has no range to slide in.
function sliderOf(field, id, slid) {
  const range = field.slider;
  if (!range) return null;
  const { min: low, max: high } = range;
  const byRatio = range.log && low > 0;
  const step = range.step ?? (field.type === "int" ? 1 : (high - low) / 200);
  const input = element("input", {
    type: "range",
    id: `${id}-slider`,
    min: byRatio ? 0 : low,
    max: byRatio ? STEPS : high,
    step: byRatio ? 1 : step,
    "aria-label": words(field.name),
  });
  const toValue = (place) => {
    if (!byRatio) return Number(place);
    const value = low * (high / low) ** (place / STEPS);
    return field.type === "int" ? Math.round(value) : Number(value.toPrecision(3));
  };
  const slider = {
    input,
    low,
    step,
    get value() {
      return toValue(Number(input.value));
    },
    show(value) {
      const place = byRatio ? (STEPS * Math.log(Math.max(value, low) / low)) / Math.log(high / low) : value;
      const isOther = Math.abs(slider.value - value) > 1e-9; // else it stays between two values that round to one
      if (isOther && !input.matches(":active")) input.value = String(place); // not under who drags it
      input.setAttribute("aria-valuetext", short(value, 6));
    },
  };
  input.addEventListener("input", () => {
    input.setAttribute("aria-valuetext", short(slider.value, 6));
    slid(slider.value);
  });
  return slider;
}

// Another text, unless the user is typing there.
function keep(input, text) {
  if (document.activeElement !== input) input.value = text;
}

/** A field's name in words. */
export function words(name) {
  return name.replaceAll("_", " ");
}
