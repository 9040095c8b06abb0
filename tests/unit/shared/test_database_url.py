"""The forms of a database URL, with one host or several."""

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from shared.database_url import read_database_url

TWO = {"host": ["db1.example", "db2.example"], "port": [5432, 5433]}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://chats:p%40ss@db1.example/chats", {"host": "db1.example"}),
        ("postgres://chats:p%40ss@db1.example:5433/chats", {"host": "db1.example", "port": 5433}),
        ("postgresql://chats:p%40ss@db1.example:5432,db2.example:5433/chats", TWO),
        ("postgresql+asyncpg://chats:p%40ss@db1.example,db2.example:5433/chats", TWO),
        ("postgresql://chats:p%40ss@/chats?host=db1.example,db2.example&port=5432,5433", TWO),
        ("postgresql://chats:p%40ss@/chats?host=db1.example:5432&host=db2.example:5433", TWO),
        ("postgresql://chats:p%40ss@[::1]:5432,[::2]:5433/chats", {"host": ["::1", "::2"], "port": [5432, 5433]}),
        ("postgresql://chats:p%40ss@[::1],[::2]/chats", {"host": ["::1", "::2"], "port": [5432, 5432]}),
        ("postgresql://chats:p%40ss@db1.example/chats?target_session_attrs=read-write", {"host": "db1.example"}),
        ("postgresql://chats:p%40ss@db1.example,db2.example:5433/chats?target_session_attrs=primary", TWO),
    ],
)
def test_a_url_names_one_host_or_several(url: str, expected: dict[str, object]) -> None:
    engine = create_async_engine(read_database_url(url).set(drivername="postgresql+asyncpg"))
    _, options = engine.dialect.create_connect_args(engine.url)
    assert options == {"user": "chats", "password": "p@ss", "database": "chats", **expected}


def test_other_parameters_of_a_url_are_kept_with_several_hosts() -> None:
    url = read_database_url("postgresql://chats@db1.example,db2.example/chats?sslmode=verify-full")
    assert url.query["sslmode"] == "verify-full"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://chats:hidden@db1.example/chats", "must be one of postgresql"),
        ("postgresql://chats:hidden@db1.example:none,db2.example/chats", "the port must be a number"),
        ("postgresql://chats:hidden@/chats?host=db1.example,db2.example&port=1,x", "the port must be a number"),
        ("postgresql://chats:hid#den@db1.example/chats", "percent-encode"),
        ("postgresql://chats:hidden@db1.example/chats?target_session_attrs=standby", "must be read-write"),
        ("postgresql://chats:hidden@db1.example,db2.example/chats?sslmode=require", "sslmode must be one of"),
    ],
)
def test_an_invalid_url_is_rejected_with_a_reason_and_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        read_database_url(url)
    assert "hid" not in str(refused.value)
