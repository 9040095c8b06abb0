// Uploads the files of a message while it is written: chosen, dropped, pasted or photographed. An interrupted upload
// starts again by itself, with the same idempotency key. Uploaded files survive a reload, like drafts.

import { fill } from "./announce.js";
import { calls, newKey, renew } from "./api.js";
import { load, remove, save } from "./tab-storage.js";

const RETRY_DELAY = 2_000; // ms, longer with each attempt
const MAX_DELAY = 30_000; // ms
const areas = new WeakMap(); // by form

/** Return the uploads of a form, or undefined. */
export const uploadsOf = (form) => areas.get(form);

/** Let the forms in an element upload their files. */
export function startAttaching(shown, closed) {
  for (const area of shown.querySelectorAll("[data-attach]:not(.live)")) new Uploads(area, shown, closed);
}

/** The files of a form. */
class Uploads {
  constructor(area, shown, closed) {
    this.area = area;
    this.form = area.closest("form");
    this.list = area.querySelector(".uploads");
    this.name = `files:${this.form.dataset.draft}`;
    this.running = new Set();
    this.submitter = null;
    areas.set(this.form, this);
    area.classList.add("live");
    for (const input of area.querySelectorAll('input[type="file"]')) {
      input.disabled = false;
      input.addEventListener("change", () => {
        this.add(input.files);
        input.value = ""; // the form itself sends no file
      });
    }
    this.form.addEventListener("paste", (event) => {
      const { files } = event.clipboardData;
      if (!files.length || event.clipboardData.types.includes("text/plain")) return;
      event.preventDefault();
      this.add(files);
    });
    for (const type of ["dragover", "drop"]) shown.addEventListener(type, (event) => this.drop(event), { signal: closed });
    shown.addEventListener("dragleave", () => shown.classList.remove("dropping"), { signal: closed });
    this.shown = shown;
    // Before the listeners of the form itself.
    this.form.parentElement.addEventListener("submit", (event) => this.hold(event), { capture: true });
    this.restore(load(this.name) ?? []);
  }

  /** Return the ids and names of the uploaded files. */
  get files() {
    return [...this.list.querySelectorAll("[data-file]")].flatMap((item) => {
      const box = item.querySelector('[type="checkbox"]');
      if (box && !box.checked) return [];
      return [{ id: item.dataset.file, name: item.querySelector("bdi").textContent, size: Number(item.dataset.size) || 0 }];
    });
  }

  drop(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    this.shown.classList.toggle("dropping", event.type === "dragover");
    if (event.type === "drop") this.add(event.dataTransfer.files);
  }

  add(files) {
    for (const file of files) this.upload(file, this.show(file));
  }

  /** Show files that were uploaded before, unless they are there. */
  restore(files) {
    for (const file of files) {
      if (!this.list.querySelector(`[data-file="${file.id}"]`)) this.finish(this.show(file), file);
    }
  }

  /** Remove all files from the form: they were sent. */
  clear() {
    this.list.replaceChildren();
    this.keep();
  }

  show({ name, size }) {
    const item = document.getElementById("upload-item").content.cloneNode(true).firstElementChild;
    item.querySelector(".name").textContent = name;
    if (size) item.querySelector(".size").textContent = sizeText(size);
    item.dataset.size = size;
    const button = item.querySelector("[data-remove]");
    button.setAttribute("aria-label", fill(button.dataset.label, { name }));
    button.addEventListener("click", () => {
      item.abort?.();
      item.remove();
      this.area.querySelector("input").focus();
      this.keep();
      this.release(); // the message has changed since it was sent
    });
    this.list.append(item);
    return item;
  }

  /** Upload a file, again and again until it is stored, refused or removed. */
  async upload(file, item) {
    const key = newKey();
    if (!file.size) return refuse(item, "empty");
    if (file.size > Number(this.area.dataset.max)) return refuse(item, "large");
    this.running.add(item);
    for (let attempt = 1; item.isConnected; attempt++) {
      const { status, body } = await send(file, item, key);
      if (!item.isConnected) break;
      if (status === 201) {
        this.finish(item, body);
        break;
      }
      if (status === 401 && attempt === 1 && (await renew().catch(() => false))) continue;
      if (status === 413) return this.end(item, "large");
      if (status === 429 && body?.code === "rate-limited") return this.end(item, "limit");
      if (status >= 400 && status < 500 && ![401, 408, 429].includes(status)) return this.end(item, "failed");
      say(item, "again");
      await quiet(Math.min(RETRY_DELAY * attempt, MAX_DELAY));
    }
    this.settle(item);
  }

  end(item, reason) {
    refuse(item, reason);
    this.settle(item);
  }

  /** Make a file a part of the form. */
  finish(item, { id, name, size }) {
    item.dataset.file = id;
    item.dataset.size = size;
    item.querySelector(".name").textContent = name;
    item.querySelector("progress").remove();
    say(item, "");
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "attachments", value: id });
    item.append(field);
    this.keep();
  }

  keep() {
    const { files } = this;
    files.length ? save(this.name, files) : remove(this.name);
  }

  /** Hold a submit back while files are uploaded. */
  hold(event) {
    if (event.target !== this.form) return;
    if (!this.running.size) {
      if (!this.form.dataset.send) remove(this.name); // the page is left
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    this.submitter = event.submitter ?? true;
    this.area.querySelector(".waiting").hidden = false;
  }

  /** Do not submit what was held back. */
  release() {
    this.submitter = null;
    this.area.querySelector(".waiting").hidden = true;
  }

  /** Submit what was held back, once the last file is uploaded. */
  settle(item) {
    this.running.delete(item);
    if (this.running.size || !this.submitter) return;
    const submitter = this.submitter === true ? undefined : this.submitter;
    this.release();
    if (this.list.querySelector(".refused")) return; // the reader decides whether to send without it
    this.form.requestSubmit(submitter);
  }
}

/** Send a file once; return the status, 0 without an answer, and the body. */
function send(file, item, key) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // `fetch` tells no progress
    const progress = item.querySelector("progress");
    say(item, "");
    item.abort = () => request.abort();
    request.upload.addEventListener("progress", ({ loaded, total }) => (progress.value = loaded / total));
    request.addEventListener("loadend", () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // A proxy answered, or nobody.
      }
      resolve({ status: request.status, body });
    });
    request.open("POST", `${calls}/api/v1/attachments`);
    request.setRequestHeader("X-CSRF-Token", document.querySelector('meta[name="csrf-token"]').content);
    request.setRequestHeader("Idempotency-Key", key);
    const form = new FormData();
    form.append("file", file);
    request.send(form);
  });
}

/** Wait some time, or until the browser is online again. */
function quiet(delay) {
  return new Promise((resolve) => {
    setTimeout(resolve, delay);
    addEventListener("online", resolve, { once: true });
  });
}

function refuse(item, reason) {
  item.querySelector("progress")?.remove();
  item.classList.add("refused");
  say(item, reason);
}

function say(item, reason) {
  const line = item.querySelector(".state");
  line.textContent = reason ? line.dataset[reason] : "";
}

function sizeText(size) {
  const unit = ["byte", "kilobyte", "megabyte"][(size >= 1e3) + (size >= 1e6)];
  const value = size / { byte: 1, kilobyte: 1e3, megabyte: 1e6 }[unit];
  const unitDisplay = unit === "byte" ? "long" : "short";
  const format = { style: "unit", unit, unitDisplay, maximumFractionDigits: value < 10 ? 1 : 0 };
  return new Intl.NumberFormat(document.documentElement.lang, format).format(value);
}
