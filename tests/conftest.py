"""How much Hypothesis tries: little and always the same by default, much and at random in `make verify`.

A deadline for one example would be a timed assertion: a busy machine fails it.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("verify", settings.get_profile("quick"), max_examples=500, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
