"""Customer Chats in a Flask store. Copy this file, set `g.user` (`sub`, `role`, `name`), and `send` each change."""

import logging
import os
import time
from queue import Queue
from threading import Thread

import jwt
import requests
from flask import Blueprint, abort, g, redirect, render_template, request, session
from standardwebhooks import Webhook, WebhookVerificationError

URL = os.environ.get("CHATS_URL", "http://127.0.0.1:8000")
POLICY = f"default-src 'none'; script-src {URL}/chats-static/; frame-src {URL}/messenger/; connect-src 'self' {URL}"
POLICY += f"; form-action 'self' {URL}; img-src data:; base-uri 'none'; frame-ancestors 'none'"
blueprint = Blueprint("chats", __name__)
changes = Queue()  # method, path and body; a real store keeps them in its database
events = {}  # types by id; a real store acts on them


def sign(sub, role, **profile):
    """Return a token that is valid for five minutes."""
    now = int(time.time())
    claims = {"sub": sub, "role": role, "aud": "chats", "iat": now, "exp": now + 300, **profile}
    return jwt.encode(claims, os.environ["CHATS_AUTH_SECRET"], algorithm="HS256")


def send_changes():
    """Send changes to users and orders, and repeat what fails. With `updated_at`, an older state never wins."""
    while True:
        method, path, body = change = changes.get()
        headers = {"Authorization": f"Bearer {sign('store', 'store')}"}
        try:
            url = f"{URL}/api/v1/store/{path}"
            requests.request(method, url, json=body, headers=headers, timeout=5).raise_for_status()
        except requests.RequestException as error:
            logging.getLogger(__name__).warning("%s: %s", path, error)
            changes.put(change)
            time.sleep(1)


Thread(target=send_changes, daemon=True).start()


@blueprint.get("/chats-token")
def token():
    """Return a token for the messenger, of the customer who is signed in."""
    if g.user is None or g.user["role"] != "customer":
        abort(401)
    return {"token": sign(**g.user)}


@blueprint.get("/chats")
def enter():
    """Show the form that leads to the pages of Customer Chats. CHATS_LOGIN_URL is this page."""
    session["next"] = request.args.get("next", "")
    if g.user is None:
        return redirect("/")
    return render_template("page.html", chats=URL, token=sign(**g.user), next=session.pop("next"))


@blueprint.post("/hooks/chats")
def webhook():
    """Take an event. The same one may arrive twice."""
    try:
        event = Webhook(os.environ["CHATS_WEBHOOK_SECRET"]).verify(request.get_data(), request.headers)
    except WebhookVerificationError:
        abort(400)
    events[request.headers["webhook-id"]] = event["type"]
    return "", 204


@blueprint.after_app_request
def add_headers(response):
    """Allow the messenger in all pages, and keep tokens out of caches."""
    response.headers.update({"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})
    return response
