"""The broker: Celery's settings, publishing, faults, and reports for operators."""
