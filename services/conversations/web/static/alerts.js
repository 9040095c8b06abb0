// A sound and a browser notification for an admin's new notifications: off until the admin turns them on in this
// browser, and only while no tab of ours is looked at. One tab alerts.

import { fill } from "./announce.js";
import { person } from "./api.js";

const SETTINGS = `chats:alerts:${person}`;
const LAST = `chats:alerted:${person}`; // the time of the newest notification that was alerted, or seen
const PATIENCE = 500; // ms in which a tab that is looked at says so
const NOTES = [880, 1175]; // Hz
const NOTE_SECONDS = 0.12;

const boxes = { sound: document.getElementById("alert-sound"), popup: document.getElementById("alert-popup") };
const hint = document.getElementById("alert-hint");

/** Start; `findNewest` returns the newest unread notification. What is there already needs no alert. */
export function startAlerts(findNewest) {
  if (!hint) return;
  const begin = async () => alertsAreOn() && skipAlerts(await findNewest());
  const settings = stored(SETTINGS) ?? {};
  boxes.sound.checked = Boolean(settings.sound);
  boxes.popup.checked = Boolean(settings.popup) && canNotify();
  boxes.sound.addEventListener("change", async () => {
    save();
    begin();
    say(boxes.sound.checked && !(await play()) ? "blocked" : null);
  });
  boxes.popup.addEventListener("change", async () => {
    say(boxes.popup.checked ? await ask() : null);
    save();
    begin();
  });
  begin();
}

/** Return whether the admin wants alerts in this browser. */
export function alertsAreOn() {
  return Boolean(hint) && (boxes.sound.checked || boxes.popup.checked);
}

/** Alert about an admin's newest unread notification, unless that was done or a tab of ours is looked at. */
export async function alertAbout(notification, title) {
  if (!alertsAreOn()) return;
  if (!isLookedAt()) await new Promise((resolve) => setTimeout(resolve, PATIENCE));
  const alertOnce = async () => {
    if (notification.created_at <= (stored(LAST) ?? "")) return;
    store(LAST, notification.created_at);
    if (isLookedAt()) return;
    if (boxes.sound.checked) await play();
    if (boxes.popup.checked && canNotify()) show(notification, title);
  };
  if (navigator.locks) await navigator.locks.request(LAST, alertOnce);
  else await alertOnce();
}

/** Remember that everything up to this notification, which the admin sees, needs no alert. */
export function noteSeen(notification) {
  if (isLookedAt()) skipAlerts(notification);
}

function skipAlerts(notification) {
  if (notification && notification.created_at > (stored(LAST) ?? "")) store(LAST, notification.created_at);
}

const isLookedAt = () => !document.hidden && document.hasFocus();
const canNotify = () => "Notification" in window && window.isSecureContext && Notification.permission === "granted";

/** Ask for the permission to notify; return the name of the reason why there is none, and turn it off again. */
async function ask() {
  let reason = null;
  if (!("Notification" in window) || !window.isSecureContext) reason = "unsupported";
  else if ((await Notification.requestPermission()) !== "granted") reason = "blocked";
  if (reason) boxes.popup.checked = false;
  return reason;
}

function show(notification, title) {
  try {
    const popup = new Notification(title, { body: notification.subject, tag: notification.conversation_id });
    popup.onclick = () => {
      window.focus();
      location.assign(`${document.getElementById("bell").dataset.root}${notification.conversation_id}/`);
    };
  } catch {
    say("unsupported"); // phones allow it in service workers only
  }
}

/** Play two short notes; false if the browser does not let this page play. */
async function play() {
  const audio = new AudioContext();
  if (audio.state === "suspended") await Promise.race([audio.resume(), new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
  const plays = audio.state === "running";
  for (const [index, frequency] of (plays ? NOTES : []).entries()) {
    const tone = new OscillatorNode(audio, { frequency });
    const volume = new GainNode(audio, { gain: 0.08 });
    tone.connect(volume).connect(audio.destination);
    tone.start(audio.currentTime + index * NOTE_SECONDS);
    tone.stop(audio.currentTime + (index + 1) * NOTE_SECONDS);
  }
  setTimeout(() => audio.close(), plays ? 1_000 : 0);
  return plays;
}

function say(name) {
  hint.hidden = !name;
  hint.textContent = name ? fill(hint.dataset[name], { site: location.host }) : "";
}

function save() {
  store(SETTINGS, { sound: boxes.sound.checked, popup: boxes.popup.checked });
}

function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

function store(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // Without storage, each tab alerts for itself until it is closed.
  }
}
