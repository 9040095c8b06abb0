"""Verify the containers, step by step. Needs root and Debian's podman. docs/containers.md says what stands in."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Final

from deploy.verify import checks, images
from deploy.verify.engine import ROOT, Engine, VerificationError, run
from deploy.verify.traffic import Store

BEGUN: Final = time.monotonic()


def step(name: str, work: Callable[[], str | None]) -> None:
    """Run one step and report what it found."""
    begun = time.monotonic()
    found = work()
    print(f"{name} ({time.monotonic() - begun:.0f} s){f': {found}' if found else ''}", flush=True)  # noqa: T201 - the report


def start(engine: Engine, image: str) -> None:
    """Start everything with new secrets and empty volumes, from an image of the product."""
    shutil.rmtree(engine.secrets, ignore_errors=True)
    run(ROOT / "deploy/make-secrets.sh", engine.secrets)
    engine.podman("tag", image, images.PRODUCT)
    engine.compose("up", "-d", "--no-build")


def verify(engine: Engine) -> None:
    """Run all steps."""
    step("lint the Dockerfile", images.check_sources)
    step("build the stand-ins", lambda: images.build_stand_ins(engine))
    step("build the image", lambda: images.build_product(engine))
    step("check the image", lambda: images.check_image(engine))
    engine.podman("tag", images.PRODUCT, f"{images.PRODUCT}:new")

    step("start", lambda: start(engine, f"{images.PRODUCT}:new"))
    step("start order", lambda: checks.start_order(engine))
    store = Store(engine)
    step("post to email", lambda: f"{store.post_to_email():.1f} s")
    step("email to message", lambda: f"{store.email_to_message():.1f} s")
    step("isolation", lambda: checks.isolation(engine))
    step("scaling", lambda: checks.scaling(engine, store))
    step("kills", lambda: checks.kills(engine, store))
    step("rolling restart", lambda: checks.rolling_restart(engine, store))
    step("memory", lambda: checks.memory(engine))
    step("end", lambda: checks.clean_end(engine))

    step("build the old code", lambda: f"commit {images.build_old(engine)}")
    step("start the old code", lambda: start(engine, images.OLD))
    step("start order", lambda: checks.start_order(engine))
    upgraded = Store(engine)
    step("post to email", lambda: f"{upgraded.post_to_email():.1f} s")
    step("upgrade", lambda: checks.upgrade(engine, upgraded))
    step("end", lambda: checks.clean_end(engine))


def main() -> int:
    """Verify the containers, and always remove them. Images stay, which makes the next run faster."""
    engine = Engine(ROOT / ".verify")
    try:
        images.require_programs()
        engine.down()
        verify(engine)
    except VerificationError as error:
        print(f"FAILED: {error}", file=sys.stderr)  # noqa: T201 - the report
        print(f"The logs of all containers are in {engine.keep_logs()}.", file=sys.stderr)  # noqa: T201 - the report
        return 1
    finally:
        engine.down()
    print(f"The containers hold in {time.monotonic() - BEGUN:.0f} s.")  # noqa: T201 - the report
    return 0


if __name__ == "__main__":
    sys.exit(main())
