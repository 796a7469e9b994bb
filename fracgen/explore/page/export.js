// Out of the page: the command, the recipe, the base fractal, a link; and the set itself, rendered by the server.

import { post } from "./api.js";
import { announce, byId, copy, count, download, report, short } from "./elements.js";

const POLL = 500; // ms between questions how far a render is

export class Export {
  constructor(state, model) {
    Object.assign(this, { state, model, timer: 0, isRunning: false });
    const texts = {
      command: ["command.sh", (answer) => answer.command],
      yaml: ["recipe.yaml", (answer) => answer.yaml],
      csv: ["base.csv", (answer) => answer.base_csv],
      json: ["base.json", (answer) => answer.base_json && JSON.stringify(answer.base_json, null, 1)],
    };
    this.texts = texts;
    for (const [name, [file, read]] of Object.entries(texts)) {
      byId(`copy-${name}`).addEventListener("click", (event) => copy(read(model.resolved) ?? "", event.currentTarget));
      byId(`save-${name}`)?.addEventListener("click", () => download(file, read(model.resolved) ?? ""));
    }
    for (const id of ["copy-link", "share"]) {
      byId(id).addEventListener("click", (event) => copy(location.href, event.currentTarget));
    }
    byId("render").addEventListener("click", () => this.#render());
    byId("render-cancel").addEventListener("click", () => this.#cancel());
    byId("render-where").textContent = state.session.working_folder ?? "the folder of the command";
    void this.#watch();
  }

  /** Show the texts of the recipe as it is resolved. */
  show() {
    const { resolved } = this.model;
    this.#enable();
    if (!resolved || resolved.draft) return; // a draft: its texts come when the slider rests
    for (const [name, [, read]] of Object.entries(this.texts)) {
      const text = read(resolved);
      byId(`text-${name}`).textContent = text ?? "";
      byId(`out-${name}`).hidden = !text;
    }
    byId("text-link").textContent = location.href;
    byId("hash").textContent = resolved.hash ?? "";
    byId("command-note").textContent = resolved.command_note ?? "";
    byId("render-size").textContent = `${count(resolved.num_samples ?? 0)} images into the folder ${resolved.folder ?? resolved.title}`;
    byId("warnings").replaceChildren(...(resolved.warnings ?? []).map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  }

  #enable() {
    byId("render").disabled = this.isRunning || !this.model.resolved?.hash;
  }

  async #render() {
    try {
      report("render", "");
      await post("/api/render", { recipe: this.model.resolved.recipe_given });
      announce("rendering");
      await this.#watch();
    } catch (error) {
      report("render", error.message);
    }
  }

  async #cancel() {
    await post("/api/render/cancel", {}).catch((error) => report("render", error.message));
    await this.#watch();
  }

  async #watch() {
    clearTimeout(this.timer);
    let status;
    try {
      status = await post("/api/render/status", {});
    } catch (error) {
      return report("render", error.message);
    }
    this.#progress(status);
    if (status.state === "running") this.timer = setTimeout(() => this.#watch(), POLL);
  }

  #progress({ state, done = 0, total = 0, folder, error, images_per_s: rate }) {
    const isRunning = state === "running";
    const bar = byId("render-bar");
    this.isRunning = isRunning;
    this.#enable();
    byId("render-cancel").hidden = !isRunning;
    bar.hidden = !isRunning;
    [bar.max, bar.value] = [Math.max(total, 1), done];
    const speed = rate ? `, ${short(rate, 3)} images/s` : "";
    const lines = {
      running: `${count(done)} of ${count(total)} images into ${folder}${speed}`,
      done: `${folder}: ${count(total)} images are there`,
      cancelled: `stopped at ${count(done)} of ${count(total)} images; rendering again goes on from there`,
      failed: error ?? "failed",
    };
    byId("render-status").textContent = lines[state] ?? "";
    report("render", state === "failed" ? (error ?? "failed") : "");
  }
}
