// Images in turn with the base: twice a second, or by hand where the user wants no motion.

const INTERVAL = 500; // ms; one flash a second, a third of what may be too much for some

export class Flicker extends EventTarget {
  constructor() {
    super();
    this.showsBase = false;
    this.timer = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
  }

  /** Start, or stop and show the images. With reduced motion nothing moves by itself: see `turn`. */
  run(isOn) {
    clearInterval(this.timer);
    this.timer = isOn && !this.calm.matches ? setInterval(() => this.turn(), INTERVAL) : 0;
    if (!isOn && this.showsBase) this.turn();
  }

  /** Show the other of the two. */
  turn() {
    this.showsBase = !this.showsBase;
    document.documentElement.dataset.flicker = this.showsBase ? "base" : "image";
    this.dispatchEvent(new Event("turn"));
  }
}
