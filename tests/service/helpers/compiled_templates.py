"""The templates of pages, compiled once for all applications of the tests: a page would take 100 ms of CPU."""

from functools import cache
from types import CodeType

from babel.support import NullTranslations
from jinja2 import BytecodeCache, Environment
from jinja2.bccache import Bucket

from services.conversations.web.rendering import Pages


def share_templates() -> None:
    """Give all applications the same compiled templates of a language."""
    create = Pages._new_environment  # noqa: SLF001 - the place to add a cache

    def new_environment(self: Pages, translations: NullTranslations) -> Environment:
        environment = create(self, translations)
        environment.bytecode_cache = _templates(translations)
        return environment

    Pages._new_environment = new_environment  # type: ignore[method-assign] # noqa: SLF001 - see above


class _Templates(BytecodeCache):
    """Jinja's cache, in memory."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        assert bucket.code is not None
        self._codes[bucket.key, bucket.checksum] = bucket.code


@cache
def _templates(_: NullTranslations) -> BytecodeCache:
    return _Templates()
