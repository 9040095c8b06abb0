"""The store's pages."""

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView, LogoutView
from django.shortcuts import redirect, render
from django.urls import path

from store import chats, models


@login_required
def home(request):
    """Show the orders, or order a teapot."""
    if request.method == "POST":
        request.user.order_set.create()
        return redirect("/")
    return render(request, "page.html", {"chats": chats.URL, "user": request.user, "events": models.Event.objects})


urlpatterns = [
    path("", home),
    path("login", LoginView.as_view(template_name="page.html", extra_context={"chats": chats.URL})),
    path("logout", LogoutView.as_view()),
    path("chats-token", chats.token),
    path("chats", chats.enter),
    path("hooks/chats", chats.webhook),
]
