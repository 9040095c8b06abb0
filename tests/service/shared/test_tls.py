"""TLS connections: only the right server is accepted, and all others are rejected with the reason in one line."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.engine import make_url

from deploy.local.ports import free_ports
from deploy.local.postgres import Server
from deploy.local.processes import end, spawn
from deploy.local.valkey import url as valkey_url
from deploy.local.valkey import valkey
from services.conversations.realtime.log_notify import LOG_GROWN, Listener, Notifier
from services.conversations.settings import StoreSettings
from shared.broker.celery_app import create_celery
from shared.database.engine import create_engine
from shared.database.readiness import database_fault
from shared.settings import SettingsError, read_settings
from tests.helpers.authority import Authority, tls_front
from tests.helpers.waiting import eventually

PASSWORD = "valkey"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that is not trusted by the system."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """The port of a Valkey without TLS."""
    directory, [port] = tmp_path_factory.mktemp("broker"), free_ports([0])
    child = valkey(directory, port, PASSWORD, directory / "log")
    process = await spawn(child)
    await eventually(child.ready, 30)
    yield port
    await end(process, child.stop_signal, child.grace)


async def fault_of(url: str, **query: str) -> str | None:
    verified_url = make_url(url).update_query_dict(query).render_as_string(hide_password=False)
    engine = create_engine(verified_url, application="tests")
    try:
        return await database_fault(engine, None)
    finally:
        await engine.dispose()


async def test_a_database_is_accepted_by_its_certificate_and_name(
    postgres: Server, databases: dict[str, str], authority: Authority
) -> None:
    url = make_url(databases["conversations"])
    for host, mode, root, expected in (
        ("127.0.0.1", "verify-full", str(authority.file), None),
        ("127.0.0.1", "verify-full", "system", "certificate verify failed"),
        ("elsewhere.test", "verify-full", str(authority.file), "IP address mismatch"),
        ("elsewhere.test", "verify-ca", str(authority.file), None),
    ):
        async with tls_front(postgres.port, authority.context(host), after_request=True) as port:
            through = url.set(port=port).render_as_string(hide_password=False)
            fault = await fault_of(through, sslmode=mode, sslrootcert=root)
            assert (fault is None) == (expected is None), fault
            assert expected is None or (fault and expected in fault and "\n" not in fault)
    fault = await fault_of(databases["conversations"], sslmode="verify-full")
    assert fault
    assert "rejected SSL" in fault


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hush@db/x?sslmode=require", "sslmode must be one of disable, verify-ca, verify-full"),
        ("postgresql://u:hush@db/x?ssl=true", "unknown option ssl, use sslmode"),
        ("postgresql://u:hush@db/x?sslrootcert=/x.pem", "sslmode must be one of"),
        ("postgresql://u:hush@db/x?sslmode=verify-full&sslrootcert=/nowhere.pem", "cannot be read (No such file"),
        ("postgresql://u:hush/hush@db/x", "percent-encode"),
        ("postgresql://u:hush℀@db/x", "percent-encode"),
    ],
)
def test_a_database_url_without_verification_or_with_an_error_is_rejected_in_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("CHATS_CONVERSATIONS_DATABASE_URL", url)
    with pytest.raises(SettingsError) as error:
        read_settings(StoreSettings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("query", ["ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=false"])
def test_verification_of_a_broker_cannot_be_disabled(monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setenv("CHATS_CONVERSATIONS_DATABASE_URL", "postgresql://db/x")
    for name in ("CHATS_BROKER_URL", "CHATS_REDIS_URL"):
        monkeypatch.setenv(name, f"rediss://:hush@cache:6379/0?{query}")
        with pytest.raises(SettingsError, match="the server's certificate is always verified") as error:
            read_settings(StoreSettings)
        assert "hush" not in str(error.value)
        monkeypatch.delenv(name)


def connect_once(celery: Celery) -> None:
    """Connect once, as a publishing process does."""
    with contextlib.closing(celery), celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=5)


async def test_a_broker_is_accepted_by_its_certificate_and_name(broker: int, authority: Authority) -> None:
    for host, root, expected in (
        ("127.0.0.1", f"?ssl_ca_certs={authority.file}", None),
        ("127.0.0.1", "", "certificate verify failed"),
        ("elsewhere.test", f"?ssl_ca_certs={authority.file}", "IP address mismatch"),
    ):
        async with tls_front(broker, authority.context(host)) as port:
            url = valkey_url(port, PASSWORD).replace("redis:", "rediss:") + root
            task = asyncio.to_thread(connect_once, create_celery(url, client="tests"))
            if expected is None:
                await task
            else:
                with pytest.raises(OperationalError, match=expected):
                    await task


def test_a_rabbitmq_is_verified_too() -> None:
    celery = create_celery("amqps://user:password@mq.test//?ssl_ca_certs=/ca.pem", client="tests")
    with celery.connection_for_write() as connection:
        assert connection.ssl == {"ca_certs": "/ca.pem", "cert_reqs": 2, "server_hostname": None}
    celery.close()


async def test_notifications_of_the_log_use_verified_tls_only(broker: int, authority: Authority) -> None:
    received: dict[str, int] = {}
    async with (
        tls_front(broker, authority.context()) as right,
        tls_front(broker, authority.context("elsewhere.test")) as wrong,
    ):
        urls = {
            name: valkey_url(port, PASSWORD).replace("redis:", "rediss:") + f"?ssl_ca_certs={authority.file}"
            for name, port in (("right", right), ("wrong", wrong))
        }

        def count(name: str) -> None:
            received[name] = received.get(name, 0) + 1

        notifier = Notifier(LOG_GROWN)
        tasks = [asyncio.create_task(Listener(LOG_GROWN, partial(count, name)).run(url)) for name, url in urls.items()]
        tasks.append(asyncio.create_task(notifier.run(urls["right"])))

        def is_received() -> bool:
            notifier.notify(1)
            return "right" in received

        await eventually(is_received)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert "wrong" not in received
