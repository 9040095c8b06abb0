"""Settings of a store in Django."""

import os
from urllib.parse import urlsplit

URL = os.environ.get("STORE_URL", "http://127.0.0.1:8090")
SECRET_KEY = os.environ["STORE_SECRET"]
ALLOWED_HOSTS, CSRF_TRUSTED_ORIGINS = [urlsplit(URL).hostname], [URL]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = URL.startswith("https:")
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "store"]
MIDDLEWARE = [
    "store.chats.add_headers",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin"  # Django's default hides the origin from Customer Chats
LOGGING_CONFIG = None  # errors go to the terminal
ROOT_URLCONF = "store.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("STORE_DATABASE", "store.db")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL, LOGIN_REDIRECT_URL, LOGOUT_REDIRECT_URL = "/login", "/", "/"
