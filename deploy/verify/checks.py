"""What must hold for the running containers, one function for each."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from deploy.verify import images
from deploy.verify.engine import Engine, VerificationError, wait_until
from deploy.verify.traffic import Load, Store

OURS = ("api", "notifications-api", "relay", "jobs", "thumbnails", "worker", "sweeper", "inbound")
SINGLE = ("inbound",)  # these have a port of the machine, so each runs in one copy
SCALED = tuple(service for service in OURS if service not in SINGLE)
SERVERS = ("postgres", "valkey", "limits", "mailpit", "proxy")
# What the log of a process contains when it has worked.
WORK = {"api": '"event":"request"', "notifications-api": '"event":"request"', "worker": '"event":"event handled"'}
COPIES = 3
UNDER_LOAD = 6.0  # seconds
TOLD = 20  # lines of a log that an error shows: the last ones, and the last of those that report no success
SIDE_BY_SIDE = 2.0  # seconds that two versions serve together


def start_order(engine: Engine) -> str:
    """Migrations start on a healthy PostgreSQL, and processes after successful migrations."""
    migrate = engine.state(_only(engine, "migrate"))
    if migrate["ExitCode"] != 0 or migrate["Running"]:
        raise VerificationError("migrate did not end successfully")
    for service in (*OURS, "flower"):
        if engine.state(_only(engine, service))["StartedAt"] < migrate["FinishedAt"]:
            raise VerificationError(f"{service} started before migrate had ended")
    if engine.state(_only(engine, "postgres"))["StartedAt"] > migrate["StartedAt"]:
        raise VerificationError("migrate started before postgres")
    engine.wait_healthy([_only(engine, service) for service in (*OURS, "flower", "proxy", "valkey", "limits")])
    return "postgres healthy, then migrate, then the processes; all health checks succeed"


def isolation(engine: Engine) -> str:
    """The proxy and the mail catcher reach no database; containers hold no secret where others see it."""
    address = engine.inspect(_only(engine, "postgres"))[0]["NetworkSettings"]["Networks"].popitem()[1]["IPAddress"]
    attempt = "import socket, sys; socket.create_connection((sys.argv[1], 5432), 2)"
    for service in ("proxy", "mailpit"):
        for host in ("postgres", address):
            try:
                engine.podman("exec", _only(engine, service), "python3", "-c", attempt, host)
            except VerificationError:
                continue
            raise VerificationError(f"{service} reaches {host}")
    engine.podman("exec", _only(engine, "api"), "python3", "-c", attempt, "postgres")
    secrets = [path.read_text().strip() for path in engine.secrets.iterdir() if path.name != "smtp_url"]
    shown = str(engine.inspect(*engine.containers()))
    if any(secret and secret in shown for secret in secrets):
        raise VerificationError("`podman inspect` shows a secret")
    for container in engine.containers():
        command = "grep -E '^(CapEff|NoNewPrivs|Uid):' /proc/self/status; touch /x 2>/dev/null && echo writable"
        if engine.state(container)["Running"]:
            _require_confined(container, engine.podman("exec", container, "sh", "-c", f"{command}; true"))
    return "no route to a database, no secret in `inspect`; no root, no capabilities, read-only root"


def scaling(engine: Engine, store: Store) -> str:
    """Each service without a port of the machine runs in three copies that share the load, and in one again."""
    copies = {service: _scale(engine, service, COPIES) for service in SCALED}
    before = {name: _work(engine, service, name) for service in WORK for name in copies[service]}
    with Load(store) as load:
        time.sleep(UNDER_LOAD)
    load.check()
    shares = {service: [_work(engine, service, name) - before[name] for name in copies[service]] for service in WORK}
    if idle := [f"{service} {done}" for service, done in shares.items() if not all(done)]:
        raise VerificationError(f"copies do not share the load: {', '.join(idle)}")
    engine.remove([name for names in copies.values() for name in names[1:]])
    store.post_to_email()
    share = ", ".join(f"{service} {done}" for service, done in shares.items())
    return f"{', '.join(SCALED)} in {COPIES} copies and back; shares: {share}"


def kills(engine: Engine, store: Store) -> str:
    """Each container that is killed starts again, and messages become emails again."""
    took = []
    for service in (*OURS, "flower", *SERVERS):
        container = _only(engine, service)
        restarted = partial(_has_restarted, engine, container, engine.inspect(container)[0]["RestartCount"])
        engine.kill(container)
        wait_until(restarted, f"{service} started again")
        took.append(f"{service} {store.post_to_email():.0f}")
        if service in (*SINGLE, "postgres"):
            took.append(f"(a message by email {store.email_to_message():.0f})")
    engine.wait_healthy(
        [_only(engine, service) for service in (*OURS, "flower", "proxy", "valkey", "limits", "postgres")]
    )
    return f"seconds until an email arrived after the restart of {', '.join(took)}"


def rolling_restart(engine: Engine, store: Store) -> str:
    """All processes restart, one copy after the other, and no request fails."""
    for service in ("api", "notifications-api"):
        _scale(engine, service, 2)
    with Load(store) as load:
        for service in OURS:
            for container in engine.containers(service):
                engine.podman("restart", "--time", "30", container)
                engine.wait_healthy([container])
    for service in ("api", "notifications-api"):
        engine.remove(engine.containers(service)[1:])
    return load.check()


def upgrade(engine: Engine, store: Store) -> str:
    """The schema moves under old code, then new copies join the old ones, then these end; no request fails."""
    before = _versions(engine)
    with Load(store) as load:
        engine.podman("tag", images.PRODUCT + ":new", images.PRODUCT)
        engine.compose("run", "--rm", "--no-deps", "migrate")
        after = _versions(engine)
        time.sleep(SIDE_BY_SIDE)  # old code on the new schema
        for service in SINGLE:
            engine.remove(engine.containers(service))
            _scale(engine, service, 1)
        for service in SCALED:
            old = engine.containers(service)
            new = [name for name in _scale(engine, service, 2) if name not in old]
            time.sleep(SIDE_BY_SIDE)
            wait_until(partial(_all_work, engine, service, (*old, *new)), f"old and new copies of {service} worked")
            engine.remove(old)
    if before == after:
        raise VerificationError(f"there was nothing to migrate from {before}")
    store.post_to_email()
    store.email_to_message()
    return f"{before} to {after}; {load.check()}"


def clean_end(engine: Engine) -> str:
    """All processes end by themselves after SIGTERM, and nothing is left."""
    engine.podman("stop", "--time", "60", *(name for service in OURS for name in engine.containers(service)))
    engine.compose("stop")
    codes = {container: engine.state(container)["ExitCode"] for container in engine.containers()}
    if failed := {container: code for container, code in codes.items() if code != 0}:
        raise VerificationError(
            "\n".join(f"{name} ended with {code}:\n{_tell(engine, name)}" for name, code in failed.items())
        )
    engine.down()
    if left := engine.leftovers():
        raise VerificationError(f"left after `down`: {', '.join(left)}")
    return "all ended with code 0; no container, network or volume is left"


def memory(engine: Engine) -> str:
    """Return the memory of each container."""
    lines = engine.podman("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
    used = dict(line.split(" ", 1) for line in sorted(lines))
    return ", ".join(
        f"{name.split('_')[1]} {value.split(' /')[0]}" for name, value in used.items() if " 0B" not in f" {value}"
    )


def _scale(engine: Engine, service: str, copies: int) -> list[str]:
    engine.up(service, copies)
    containers = engine.containers(service)
    if len(containers) != copies:
        raise VerificationError(f"{service} runs in {len(containers)} copies, not in {copies}")
    engine.wait_healthy(containers)
    return containers


def _has_restarted(engine: Engine, container: str, count: int) -> bool:
    known = engine.inspect(container)[0]
    return bool(known["RestartCount"] > count and known["State"]["Running"])


def _only(engine: Engine, service: str) -> str:
    containers = engine.containers(service)
    if not containers:
        raise VerificationError(f"{service} has no container")
    return containers[0]


def _work(engine: Engine, service: str, container: str) -> int:
    lines = (line.replace('": "', '":"') for line in engine.logs(container))  # as older releases write them
    return sum(WORK[service] in line and "/readyz" not in line for line in lines)


def _all_work(engine: Engine, service: str, containers: Iterable[str]) -> bool:
    """Return whether all copies have worked. Of other services than these, one copy may do all work."""
    return service not in WORK or all(_work(engine, service, container) for container in containers)


def _tell(engine: Engine, container: str) -> str:
    """Return what a container has logged, without its requests and successes before the last few."""
    lines = engine.logs(container)
    told = [line for line in lines[:-TOLD] if '"level":"info"' not in line]
    return "\n".join([*told[-TOLD:], *lines[-TOLD:]])


def _versions(engine: Engine) -> str:
    """Return the version of each database's schema."""
    query = "select version_num from alembic_version"
    psql = (
        "exec",
        _only(engine, "postgres"),
        "psql",
        "--username=postgres",
        "--host=/run/postgresql",
        "-At",
        "-c",
        query,
    )
    return " and ".join(engine.podman(*psql, name).strip() for name in ("conversations", "notifications"))


def _require_confined(container: str, output: str) -> None:
    facts: dict[str, Any] = dict(line.split(":", 1) for line in output.splitlines() if ":" in line)
    allowed = "0000000000000400" if "proxy" in container else "0000000000000000"
    is_root = facts["Uid"].split()[0] == "0"
    if is_root or "writable" in output or facts["NoNewPrivs"].strip() != "1" or facts["CapEff"].strip() != allowed:
        raise VerificationError(f"{container} is not confined: {_words(facts.values())}")


def _words(values: Iterable[str]) -> str:
    return ", ".join(" ".join(value.split()) for value in values)
