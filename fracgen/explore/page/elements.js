// Elements made in one expression, and the few forms of numbers that the page writes.

/** An element with these properties and children. "class", "for", "data-..", "aria-.." and "role" are attributes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && !key.includes("-") && key !== "role" && key !== "list") made[key] = value;
    else made.setAttribute(key === "className" ? "class" : key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The element of an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A number with as many digits as it needs, `digits` significant ones at most. */
export function short(value, digits = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  return String(Number(value.toPrecision(digits)));
}

/** A number in so few letters that a narrow box shows all of it: with fewer digits, or as in 9.88e-4. */
export function narrow(value, letters = 7) {
  for (const digits of [4, 3, 2, 1]) {
    const forms = [short(value, digits), value.toExponential(digits - 1).replace("e+", "e")];
    const text = forms.find((form) => form.length <= letters);
    if (text) return text;
  }
  return value.toExponential(0);
}

/** A number with a fixed number of decimals, for columns. */
export function fixed(value, decimals = 3) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace("-", "\u2212") : "-";
}

/** A share as a percentage. */
export function percent(share) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : "-";
}

/** A whole number with its thousands apart. */
export function count(value) {
  return value.toLocaleString("en").replaceAll(",", "\u202f");
}

/** Copy text, and say so on the button for a moment. */
export async function copy(text, button) {
  const label = button.dataset.label ?? button.textContent;
  button.dataset.label = label;
  try {
    if (text) await navigator.clipboard.writeText(text);
    button.textContent = text ? "Copied" : "Nothing yet";
    announce(`${button.getAttribute("aria-label") ?? label}: ${text ? "copied" : "there is nothing to copy yet"}`);
  } catch {
    button.textContent = "Select and copy";
    announce("The browser does not let the page copy: select the text and copy it.");
  }
  setTimeout(() => (button.textContent = label), 1500);
}

/** Offer data as a file. */
export function download(name, data, type = "text/plain") {
  const url = URL.createObjectURL(data instanceof Blob ? data : new Blob([data], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Have a screen reader say a line. */
export function announce(text) {
  byId("announcement").textContent = text;
}

/** Show a line of what is wrong, by its source; an empty line takes it back. */
export function report(source, line) {
  const list = byId("problems");
  let item = list.querySelector(`[data-source="${source}"]`);
  if (!line) return item?.remove();
  if (!item) list.append((item = element("li", { "data-source": source })));
  if (item.textContent !== line) item.textContent = line;
}
