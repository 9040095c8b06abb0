"""A store in Flask. What it does for Customer Chats is in `chats.py`."""

import os
from datetime import UTC, datetime

import chats
from flask import Flask, abort, g, redirect, render_template, request, session, url_for

URL = os.environ.get("STORE_URL", "http://127.0.0.1:8090")
USERS = {"anna": {"role": "customer", "name": "Anna"}, "sam": {"role": "admin", "name": "Sam"}}
orders = {}
app = Flask(__name__)
app.secret_key = os.environ["STORE_SECRET"]
app.config.update(SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_SECURE=URL.startswith("https:"))
app.register_blueprint(chats.blueprint)
for sub, profile in USERS.items():
    chats.changes.put(("PUT", f"users/{sub}", profile))


@app.before_request
def check():
    """Find the user who is signed in. Refuse posts from other sites."""
    g.user = {"sub": session["user"], **USERS[session["user"]]} if "user" in session else None
    if request.method == "POST" and request.endpoint != "chats.webhook" and request.headers.get("Origin") != URL:
        abort(403)


@app.get("/")
def home():
    """Show the orders."""
    mine = [order for order in orders.values() if g.user and order["user_id"] == g.user["sub"]]
    return render_template("page.html", chats=chats.URL, orders=mine, events=chats.events.values())


@app.post("/session")
def sign_in_or_out():
    """Sign in; a real store asks for a password. Or sign out, of Customer Chats too."""
    if g.user:
        chats.changes.put(("DELETE", f"users/{session.pop('user')}/sessions", None))
    elif request.form["user"] in USERS:
        session["user"] = request.form["user"]
    return redirect(url_for("chats.enter", next=session.pop("next")) if "next" in session else "/", 303)


@app.post("/orders")
def order():
    """Order a teapot."""
    number, now = str(1001 + len(orders)), datetime.now(UTC).isoformat()
    order = {"user_id": g.user["sub"] if g.user else abort(401), "number": number, "status": "paid", "total": "29.50"}
    orders[number] = order | {"currency": "EUR", "placed_at": now, "updated_at": now}
    chats.changes.put(("PUT", f"orders/{number}", orders[number]))
    return redirect("/", 303)
