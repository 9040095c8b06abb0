"""Structured logs, HTTP metrics, traces."""
