// Customer Chats in an Express store: copy this file, set `request.user` (`sub`, `role`, `name`), and `send` each change.
import { raw, Router } from "express";
import { SignJWT } from "jose";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const { CHATS_URL = "http://127.0.0.1:8000", CHATS_AUTH_SECRET, CHATS_WEBHOOK_SECRET } = process.env;
const POLICY =
  `default-src 'none'; script-src ${CHATS_URL}/chats-static/; frame-src ${CHATS_URL}/messenger/; connect-src 'self' ${CHATS_URL}; ` +
  `form-action 'self' ${CHATS_URL}; img-src data:; base-uri 'none'; frame-ancestors 'none'`;
if (!CHATS_AUTH_SECRET) throw new Error("Set CHATS_AUTH_SECRET.");
export const events = new Map(); // types by id; a real store acts on them
export const chats = Router();

/** Return a token that is valid for five minutes. */
function sign(claims) {
  const token = new SignJWT({ ...claims, aud: "chats" }).setIssuedAt().setExpirationTime("5 minutes");
  return token.setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(CHATS_AUTH_SECRET));
}

/** Send a change, and repeat it if that fails: with `updated_at`, an older state never wins. */
export async function send(method, path, body) {
  const token = await sign({ sub: "store", role: "store" });
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const options = { method, headers, body: JSON.stringify(body), signal: AbortSignal.timeout(5000) };
  try {
    const response = await fetch(`${CHATS_URL}/api/v1/store/${path}`, options);
    if (!response.ok) throw new Error(await response.text());
  } catch (error) {
    console.error(error.message);
    setTimeout(send, 1000, method, path, body); // a real store keeps changes in its database
  }
}

/** Allow the messenger in all pages, and keep tokens out of caches. */
chats.use((request, response, next) => {
  response.locals.chats = CHATS_URL;
  response.set({ "Content-Security-Policy": POLICY, "Cache-Control": "no-store" });
  next();
});

/** Return a token for the messenger, of the customer who is signed in. */
chats.get("/chats-token", async ({ user }, response) => {
  if (user?.role !== "customer") return response.sendStatus(401);
  response.json({ token: await sign(user) });
});

/** Show the form that leads to the pages of Customer Chats. CHATS_LOGIN_URL is this page. */
chats.get("/chats", async ({ user, session, query }, response) => {
  session.next = user ? undefined : query.next;
  if (!user) return response.redirect("/");
  response.render("page", { token: await sign(user), next: query.next ?? "" });
});

/** Take an event. The same one may arrive twice. */
chats.post("/hooks/chats", raw({ type: "application/json" }), ({ body, headers }, response) => {
  try {
    const event = new Webhook(CHATS_WEBHOOK_SECRET).verify(body, headers);
    events.set(headers["webhook-id"], event.type);
  } catch (error) {
    if (error instanceof WebhookVerificationError) return response.sendStatus(400);
    throw error;
  }
  response.sendStatus(204);
});
