// The browser's time zone, for users whose store sends none. A cookie tells the server; without scripts it uses its own.

import { isFramed } from "./frame.js";
import { refresh } from "./refresh.js";

const COOKIE = isFramed ? "chats-messenger-zone" : "chats-zone";
const MAX_AGE = 31_536_000; // a year, in seconds

/** Store the browser's zone if the page has another one, and then refresh the page. */
export function startZone() {
  const { dataset } = document.documentElement;
  const zone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  if ("zoneSet" in dataset || !zone || zone === dataset.zone) return;
  if (zone === stored()) {
    // Another page may have stored it after this one was requested. Once in a tab: the server may not know the zone.
    if (sessionStorage.getItem(COOKIE) === zone) return;
    sessionStorage.setItem(COOKIE, zone);
  } else {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    const scope = isFramed && isSecureContext ? "SameSite=None; Secure; Partitioned" : `SameSite=Lax${secure}`;
    document.cookie = `${COOKIE}=${zone}; Path=/; Max-Age=${MAX_AGE}; ${scope}`;
  }
  if (zone === stored()) refresh(); // a browser may refuse cookies
}

function stored() {
  const cookie = document.cookie.split("; ").find((pair) => pair.startsWith(`${COOKIE}=`));
  return cookie?.slice(COOKIE.length + 1);
}
