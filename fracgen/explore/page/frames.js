// Frames over the picture: the picture's own frame through each map. Dragging one moves its map; the corners turn,
// stretch and shear it. While one is dragged the plane stands still, and the picture is fitted to it; once it is let go,
// the picture is fitted to itself again, as the renderer does.

import { apply, withMaps } from "./linear.js";
import { short } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#e69f00", "#56b4e9", "#2bbf95", "#f0e442", "#ff7a3d", "#d98ab8", "#8fa8ff", "#f2f2f2"];
const HANDLES = [
  { name: "turn and scale", at: [1, 1] },
  { name: "first axis", at: [1, 0] },
  { name: "second axis", at: [0, 1] },
];

/** The colour of a map's frame, on black. */
export function colourOf(map) {
  return COLOURS[map % COLOURS.length];
}

/** Whether the orbit of a base has an extent within which frames can be reckoned: some run off to 1e300. */
export function isBounded(base) {
  return Boolean(base?.extent?.every((value) => Number.isFinite(value) && Math.abs(value) < 1e100));
}

export class Frames {
  constructor(svg, canvas, model) {
    Object.assign(this, { svg, canvas, model, ifs: null, view: null, drag: null });
    svg.addEventListener("pointerdown", (event) => this.#grab(event));
    svg.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, (event) => this.#release(event));
    svg.addEventListener("keydown", (event) => this.#key(event));
    // A finger on a frame drags it and does not scroll; `touch-action` ends with its element, which a move replaces.
    svg.addEventListener("touchstart", (event) => this.drag && event.preventDefault(), { passive: false });
  }

  /** Show the frames of a base that has been drawn. */
  place(base, ifs) {
    if (!isBounded(base) || !ifs) {
      this.svg.replaceChildren();
      this.ifs = null;
      return;
    }
    const view = { extent: base.extent, size: base.width, pad: this.model.state.values.pad ?? 0 };
    if (this.drag) {
      this.#fit(view);
      return;
    }
    [this.ifs, this.view] = [ifs, view];
    this.#build();
  }

  // The picture in the plane as it was when the drag began.
  #fit(view) {
    const [left, bottom] = this.#toPixel([view.extent[0], view.extent[2]], this.drag.view);
    const [right, top] = this.#toPixel([view.extent[1], view.extent[3]], this.drag.view);
    const [inner, pad] = [view.size - 2 * view.pad, view.pad];
    const [scaleX, scaleY] = [(right - left) / inner, (bottom - top) / inner];
    const share = 100 / view.size;
    const [x, y] = [(left - pad * scaleX) * share, (top - pad * scaleY) * share];
    this.canvas.style.transformOrigin = "0 0";
    this.canvas.style.transform = `translate(${x}%, ${y}%) scale(${scaleX}, ${scaleY})`;
  }

  #toPixel([x, y], { extent, size, pad }) {
    const inner = size - 2 * pad;
    const [width, height] = [extent[1] - extent[0] || 1, extent[3] - extent[2] || 1];
    return [((x - extent[0]) / width) * inner + pad, size - (((y - extent[2]) / height) * inner + pad)];
  }

  #toPlane([u, v], { extent, size, pad }) {
    const inner = size - 2 * pad;
    const [width, height] = [extent[1] - extent[0] || 1, extent[3] - extent[2] || 1];
    return [((u - pad) / inner) * width + extent[0], ((size - v - pad) / inner) * height + extent[2]];
  }

  #corner([u, v], { extent }) {
    return [u ? extent[1] : extent[0], v ? extent[3] : extent[2]];
  }

  #build() {
    const { size } = this.view;
    this.svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
    const focused = this.svg.contains(document.activeElement) ? document.activeElement.dataset : null;
    const [map, handle] = [focused?.map, focused?.handle];
    this.svg.replaceChildren(...this.ifs.maps.slice(0, 24).map((_, number) => this.#group(number)));
    if (map !== undefined) this.svg.querySelector(`[data-map="${map}"][data-handle="${handle}"]`)?.focus({ preventScroll: true });
  }

  #group(number) {
    const group = svg("g", { class: "map" });
    group.style.color = colourOf(number);
    const points = this.#points(number);
    const body = svg("polygon", {
      points: points.map((point) => point.map((value) => value.toFixed(2)).join(",")).join(" "),
      "data-map": number,
      "data-handle": "body",
      tabindex: 0,
      role: "button",
      "aria-label": this.#label(number, "frame"),
    });
    group.append(body);
    const radius = this.view.size / 64;
    for (const { name, at } of HANDLES) {
      const [cx, cy] = points[at[0] ? (at[1] ? 2 : 1) : 3];
      const shape = name === "turn and scale" ? { rx: radius * 1.3, ry: radius * 1.3 } : { rx: radius, ry: radius };
      const handle = { cx, cy, ...shape, "data-map": number, "data-handle": name, tabindex: 0, role: "button" };
      group.append(svg("ellipse", { ...handle, "aria-label": this.#label(number, name) }));
    }
    const [x, y] = points[0];
    const text = svg("text", { x: x + radius, y: y - radius, "font-size": this.view.size / 28, "aria-hidden": "true" });
    text.textContent = String(number + 1);
    group.append(text);
    return group;
  }

  // The corners of a map's frame in pixels: (0, 0), (1, 0), (1, 1), (0, 1) of the picture.
  #points(number) {
    const corners = [[0, 0], [1, 0], [1, 1], [0, 1]];
    return corners.map((at) => this.#toPixel(apply(this.ifs.maps[number], this.#corner(at, this.view)), this.view));
  }

  #label(number, handle) {
    const [[a, b, e], [c, d, f]] = this.ifs.maps[number].map((row) => row.map((value) => short(value, 3)));
    return `Map ${number + 1}, ${handle}; arrow keys move it. a ${a}, b ${b}, c ${c}, d ${d}, e ${e}, f ${f}`;
  }

  #pointer(event) {
    const box = this.svg.getBoundingClientRect();
    const scale = this.view.size / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  #grab(event) {
    const { map, handle } = event.target.dataset ?? {};
    if (map === undefined || this.drag) return;
    event.preventDefault();
    event.target.focus({ preventScroll: true });
    this.svg.setPointerCapture(event.pointerId);
    const from = this.#toPlane(this.#pointer(event), this.view);
    this.drag = { pointer: event.pointerId, number: Number(map), handle, from, ifs: this.ifs, view: this.view };
  }

  #move(event) {
    if (this.drag?.pointer !== event.pointerId) return; // nor a second finger
    const to = this.#toPlane(this.#pointer(event), this.drag.view);
    this.model.inputAt = event.timeStamp;
    this.#apply(this.drag, [to[0] - this.drag.from[0], to[1] - this.drag.from[1]], { live: true });
  }

  #release(event) {
    if (this.drag?.pointer !== event.pointerId) return;
    const { ifs } = this;
    this.drag = null;
    this.canvas.style.transform = "";
    this.model.edit(ifs, { push: true });
  }

  #key(event) {
    const { map, handle } = event.target.dataset ?? {};
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (map === undefined || !direction) return;
    event.preventDefault();
    const { extent } = this.view;
    const step = event.shiftKey ? 0.05 : 0.005;
    const by = [direction[0] * step * (extent[1] - extent[0]), direction[1] * step * (extent[3] - extent[2])];
    this.#apply({ number: Number(map), handle, ifs: this.ifs, view: this.view }, by, {});
  }

  // Move a handle by a step in the plane.
  #apply({ number, handle, ifs, view }, by, options) {
    const map = moved(ifs.maps[number], handle, by, (at) => this.#corner(at, view));
    const maps = ifs.maps.map((each, place) => (place === number ? map : each));
    this.ifs = withMaps(ifs, maps);
    this.#build();
    this.model.edit(this.ifs, options);
  }
}

/** A map of which a handle has been moved by a step in the plane. corner: gives a corner of the picture in the plane. */
export function moved(map, handle, by, corner) {
  const [[a, b, e], [c, d, f]] = map;
  if (handle === "body") return [[a, b, e + by[0]], [c, d, f + by[1]]];
  const [origin, opposite] = [corner([0, 0]), corner([1, 1])];
  const [width, height] = [opposite[0] - origin[0] || 1, opposite[1] - origin[1] || 1];
  const fixed = apply(map, origin);
  let [x, y] = [[a, c], [b, d]]; // the columns: what the axes become
  if (handle === "first axis") x = [a + by[0] / width, c + by[1] / width];
  else if (handle === "second axis") y = [b + by[0] / height, d + by[1] / height];
  else {
    const [far, near] = [apply(map, opposite), fixed];
    const before = [far[0] - near[0], far[1] - near[1]];
    const after = [before[0] + by[0], before[1] + by[1]];
    const length = before[0] ** 2 + before[1] ** 2 || 1;
    const cos = (before[0] * after[0] + before[1] * after[1]) / length;
    const sin = (before[0] * after[1] - before[1] * after[0]) / length;
    [x, y] = [x, y].map(([u, v]) => [cos * u - sin * v, sin * u + cos * v]);
  }
  const turned = [[x[0], y[0], 0], [x[1], y[1], 0]];
  const [u, v] = apply(turned, origin);
  return [[x[0], y[0], fixed[0] - u], [x[1], y[1], fixed[1] - v]];
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
