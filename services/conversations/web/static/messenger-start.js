// The first page of the messenger's frame: begins a session with a token of the store's page, and opens the messages.

import { lastPlace, listen, newConversation } from "./frame.js";

const isFirstPage = location.pathname === "/messenger/start/";
const hasBegun = new URLSearchParams(location.search).has("begun");

if (parent === window) location.replace("/dashboard/messages/");
else if (hasBegun) tell("blocked"); // the browser did not keep the session's cookie
else tell("start");

listen(async (data) => {
  if (data.chats !== "token" || hasBegun) return;
  const response = await fetch("/messenger/session", { method: "POST", body: new URLSearchParams({ token: data.token }) }).catch(() => null);
  if (response?.ok) return open(data, response.status === 201);
  const { reason, detail = "no answer" } = (await response?.json().catch(() => null)) ?? {};
  tell(reason === "expired" && !data.isFresh ? "expired" : "refused", reason ?? detail);
});

function open(data, isNewSession) {
  const asked = data.orderId || data.subject ? newConversation(data) : null;
  const last = isNewSession ? "/messenger/" : lastPlace();
  const url = new URL(asked ?? (isFirstPage ? last : location), location);
  url.searchParams.set("begun", "");
  location.replace(url);
}

function tell(what, reason) {
  parent.postMessage({ chats: what, reason }, "*"); // tells no secret; only the store's origins may frame this page
}
