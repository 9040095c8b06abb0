// A store in Express. What it does for Customer Chats is in `chats.js`.
import session from "cookie-session";
import express from "express";
import { chats, events, send } from "./chats.js";

const { STORE_URL = "http://127.0.0.1:8090", STORE_SECRET } = process.env;
const users = { anna: { role: "customer", name: "Anna" }, sam: { role: "admin", name: "Sam" } };
const orders = [];
const app = express();
app.set("view engine", "ejs");
app.set("trust proxy", "loopback"); // one in front of it, for https
app.use(session({ secret: STORE_SECRET, sameSite: "lax", secure: STORE_URL.startsWith("https:") }));
app.use(express.urlencoded());
for (const [id, user] of Object.entries(users)) send("PUT", `users/${id}`, user);

/** Find the user who is signed in. Refuse posts from other sites. */
app.use((request, response, next) => {
  const { user: id } = request.session;
  request.user = id && { sub: id, ...users[id] };
  const isSafe = request.method === "GET" || request.path === "/hooks/chats" || request.get("Origin") === STORE_URL;
  isSafe ? next() : response.sendStatus(403);
});
app.use(chats);

/** Show the orders. */
app.get("/", ({ user }, response) => {
  const mine = orders.filter((order) => order.user_id === user?.sub);
  response.render("page", { user, orders: mine, events: [...events.values()] });
});

/** Sign in; a real store asks for a password. Or sign out, of Customer Chats too. */
app.post("/session", ({ user, session, body }, response) => {
  if (user) send("DELETE", `users/${user.sub}/sessions`);
  session.user = !user && Object.hasOwn(users, body.user) ? body.user : undefined;
  response.redirect(303, session.next === undefined ? "/" : `/chats?next=${encodeURIComponent(session.next)}`);
});

/** Order a teapot. */
app.post("/orders", ({ user }, response) => {
  if (!user) return response.sendStatus(401);
  const [number, now] = [String(1001 + orders.length), new Date()];
  const order = { user_id: user.sub, number, status: "paid", total: "29.50", currency: "EUR", placed_at: now, updated_at: now };
  orders.push(order);
  send("PUT", `orders/${number}`, order);
  response.redirect(303, "/");
});

app.listen(new URL(STORE_URL).port, "127.0.0.1");
