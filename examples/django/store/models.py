"""The store's orders, and the events that it has handled."""

from django.contrib.auth.models import User
from django.db import models


class Order(models.Model):
    """An order of a teapot."""

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    placed_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)


class Event(models.Model):
    """An event of Customer Chats."""

    id = models.CharField(primary_key=True, max_length=255)
    type = models.CharField(max_length=100)
