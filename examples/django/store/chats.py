"""Customer Chats in a Django store: copy this file, its lines in `settings.py` and `urls.py`, and the model `Event`."""

import os
import time

import jwt
import requests
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_out
from django.db.models.signals import post_save
from django.db.transaction import on_commit
from django.dispatch import receiver
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from standardwebhooks import Webhook, WebhookVerificationError

from store.models import Event, Order

URL = os.environ.get("CHATS_URL", "http://127.0.0.1:8000")
POLICY = f"default-src 'none'; script-src {URL}/chats-static/; frame-src {URL}/messenger/; connect-src 'self' {URL}"
POLICY += f"; form-action 'self' {URL}; img-src data:; base-uri 'none'; frame-ancestors 'none'"


def sign(sub, role, **profile):
    """Return a token that is valid for five minutes."""
    now = int(time.time())
    claims = {"sub": sub, "role": role, "aud": "chats", "iat": now, "exp": now + 300, **profile}
    return jwt.encode(claims, os.environ["CHATS_AUTH_SECRET"], algorithm="HS256")


def profile(user):
    """Return what Customer Chats knows about a user."""
    return {"role": "admin" if user.is_staff else "customer", "name": user.get_full_name(), "email": user.email}


def call(method, path, body=None):
    """Call the API for stores. A real store does this in its task queue, which repeats what fails."""
    headers = {"Authorization": f"Bearer {sign('store', 'store')}"}
    requests.request(method, f"{URL}/api/v1/store/{path}", json=body, headers=headers, timeout=5).raise_for_status()


@receiver(post_save, sender=User)
def send_user(instance, **_):
    """Sync a user who has changed, or signed in."""
    on_commit(lambda: call("PUT", f"users/{instance.pk}", profile(instance)), robust=True)


@receiver(post_save, sender=Order)
def send_order(instance, **_):
    """Sync an order that has changed."""
    order = {"user_id": str(instance.user_id), "number": str(instance.pk), "status": "paid", "total": "29.50"}
    order |= {"currency": "EUR", "placed_at": str(instance.placed_at), "updated_at": str(instance.updated_at)}
    on_commit(lambda: call("PUT", f"orders/{instance.pk}", order), robust=True)


@receiver(user_logged_out)
def end_sessions(user, **_):
    """Sign a user out of Customer Chats, too."""
    on_commit(lambda: call("DELETE", f"users/{user.pk}/sessions"), robust=True)


def token(request):
    """Return a token for the messenger, of the customer who is signed in."""
    if not request.user.is_authenticated or request.user.is_staff:
        return HttpResponse(status=401)
    return JsonResponse({"token": sign(str(request.user.pk), **profile(request.user))})


@login_required
def enter(request):
    """Show the form that leads to the pages of Customer Chats. CHATS_LOGIN_URL is this page."""
    values = {"token": sign(str(request.user.pk), **profile(request.user)), "next": request.GET.get("next", "")}
    return render(request, "page.html", {"chats": URL, **values})


@csrf_exempt
def webhook(request):
    """Take an event. The same one may arrive twice."""
    try:
        event = Webhook(os.environ["CHATS_WEBHOOK_SECRET"]).verify(request.body, request.headers)
    except WebhookVerificationError:
        return HttpResponse(status=400)
    Event.objects.get_or_create(id=request.headers["webhook-id"], defaults={"type": event["type"]})
    return HttpResponse(status=204)


def add_headers(get_response):
    """Allow the messenger in all pages, and keep tokens out of caches."""

    def respond(request):
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        response["Cache-Control"] = "no-store"
        return response

    return respond
