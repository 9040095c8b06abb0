"""The compose file and the image, read as files: complete settings, hardening, networks and secrets."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.conversations import settings as conversations
from services.notifications import settings as notifications
from shared.settings import Settings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"] == "customer-chats"}
SERVERS = {"postgres": "postgres", "valkey": "valkey", "limits": "valkey", "mailpit": "mailpit"}  # and their profiles

# The settings that each process reads. Some know no broker; its setting is one of all processes.
PROCESSES: dict[str, set[str]] = {
    "api": set(conversations.ApiSettings.model_fields) - {"broker_url"},
    "relay": set(conversations.StoreSettings.model_fields),
    "jobs": set(conversations.JobsSettings.model_fields) - {"broker_url", "redis_url"},
    "thumbnails": set(conversations.FileSettings.model_fields) - {"broker_url", "redis_url"},
    "notifications-api": set(notifications.ApiSettings.model_fields) - {"broker_url"},
    "worker": set(notifications.EmailSettings.model_fields),
    "sweeper": set(notifications.SweeperSettings.model_fields) - {"broker_url"},
    "inbound": set(notifications.InboundSettings.model_fields) - {"broker_url"},
    "migrate": {*conversations.MigrationSettings.model_fields, *notifications.MigrationSettings.model_fields}
    - {"broker_url", "redis_url"},
    "flower": {*Settings.model_fields, "flower_basic_auth", "flower_broker_api", "retention_days"},  # like all others
}
SECRETS = {
    "auth_secret",
    "broker_url",
    "conversations_database_url",
    "conversations_owner_url",
    "dkim_key",
    "feed_secret",
    "files_secret_key",
    "flower_basic_auth",
    "flower_broker_api",
    "inbound_http_secret",
    "inbound_imap_url",
    "inbound_secret",
    "notifications_database_url",
    "notifications_owner_url",
    "redis_url",
    "smtp_url",
}


def test_all_processes_are_compared() -> None:
    assert PROCESSES.keys() == OURS
    assert SERVICES.keys() == {*OURS, *SERVERS, "proxy"}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_gets_all_settings_that_it_reads_and_its_secrets_as_files(name: str) -> None:
    environment = {variable.lower().removeprefix("chats_") for variable in SERVICES[name]["environment"]}
    secrets = PROCESSES[name] & SECRETS
    files = {f"{secret}_file" for secret in secrets}
    assert environment - files - {"listen_host"} == PROCESSES[name]
    assert files <= environment
    assert sorted(SERVICES[name]["secrets"]) == sorted(secrets)
    for secret in secrets:
        assert SERVICES[name]["environment"][f"CHATS_{secret.upper()}_FILE"] == f"/run/secrets/{secret}"
        assert SERVICES[name]["environment"][f"CHATS_{secret.upper()}"] is None, "reported, not used"


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "proxy" else [])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices"} & service.keys()
    if name not in OURS:
        assert service["user"].split(":")[0] not in {"", "0", "root"}
    for port in service.get("ports", []):
        assert port.startswith("${CHATS_HOST:-127.0.0.1}:" if name == "proxy" else "127.0.0.1:")


def test_the_proxy_and_the_mail_catcher_reach_no_database() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert COMPOSE["networks"]["data"]["internal"]
    assert {name for name in SERVICES if networks[name] == {"front"}} == {"proxy", "mailpit"}
    assert {name for name in SERVICES if networks[name] == {"data"}} == {"postgres", "valkey", "limits"}
    assert {name for name in SERVICES if networks[name] == {"front", "data"}} == OURS


def test_only_servers_that_a_store_may_replace_have_a_profile() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service} == {
        name: [profile] for name, profile in SERVERS.items()
    }
    for name, service in SERVICES.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert condition.get("required", True) == (needed not in SERVERS), (name, needed)


def test_podman_compose_knows_the_file() -> None:
    assert "configs" not in COMPOSE
    for service in SERVICES.values():
        assert "configs" not in service
        assert "start_interval" not in service.get("healthcheck", {})
        # It uses the variables of `environment` for all other values, too.
        used = set(
            re.findall(r"\$\{(\w+)", str({key: value for key, value in service.items() if key != "environment"}))
        )
        assert not used & {name for name, value in service.get("environment", {}).items() if value is not None}


def test_the_example_explains_all_variables_of_the_file() -> None:
    documented = set(re.findall(r"^#? ?(\w+)=", (ROOT / "deploy/env.example").read_text(), re.MULTILINE))
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text)) | set(re.findall(r"^ +(CHATS_\w+):$", text, re.MULTILINE))
    assert used <= documented


def make_secrets(directory: Path, **environment: str) -> dict[str, str]:
    script = ROOT / "deploy/make-secrets.sh"
    subprocess.run([script, directory], check=True, env={"PATH": "/usr/bin:/bin", **environment})  # noqa: S603 - our own script
    return {path.name: path.read_text().removesuffix("\n") for path in directory.iterdir()}


def test_the_script_makes_all_secrets_once(tmp_path: Path) -> None:
    first = make_secrets(tmp_path / "secrets")
    assert first.keys() == COMPOSE["secrets"].keys()
    empty = ["dkim_key", "files_secret_key", "flower_broker_api", "inbound_http_secret", "inbound_imap_url"]
    assert sorted(name for name, value in first.items() if not value) == empty
    given = list(filter(None, first.values()))
    assert len(set(given)) == len(given)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o644}
    (tmp_path / "secrets" / "feed_secret").unlink()
    second = make_secrets(tmp_path / "secrets")
    assert {name for name in first if first[name] != second[name]} == {"feed_secret"}


def test_the_script_takes_over_the_secrets_of_an_environment(tmp_path: Path) -> None:
    made = make_secrets(
        tmp_path,
        CHATS_AUTH_SECRET="known",
        VALKEY_PASSWORD="v",
        CONVERSATIONS_PASSWORD="c",
        CHATS_NOTIFICATIONS_DATABASE_URL="postgresql://n:n@db.example/n",
    )
    assert made["auth_secret"] == "known"
    assert made["broker_url"] == "redis://:v@valkey:6379/0"
    assert made["valkey.conf"] == "requirepass v"
    assert made["conversations_database_url"] == "postgresql://conversations:c@postgres:5432/conversations"
    assert made["notifications_database_url"] == "postgresql://n:n@db.example/n"
    assert not made["notifications_owner_url"]


def test_each_secret_has_a_file() -> None:
    assert {name: secret["file"] for name, secret in COMPOSE["secrets"].items()} == {
        name: f"${{CHATS_SECRETS_DIR:-./secrets}}/{name}" for name in COMPOSE["secrets"]
    }
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()


def test_the_image_has_the_version_of_the_project_and_another_user_than_root() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'org.opencontainers.image.version="{version}"' in dockerfile
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"]
