"""Settings from files, as container platforms provide secrets: `CHATS_AUTH_SECRET_FILE` names one."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from shared.settings import SettingsError

MARK = "_FILE"


def read_setting_files(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set each `CHATS_X` whose variable `CHATS_X_FILE` names a file to its text, without the line break at its end.

    Raises `SettingsError` if both variables are set, or the file cannot be read.
    """
    for variable, path in list(environment.items()):
        if not variable.startswith("CHATS_") or not variable.endswith(MARK) or not path:
            continue
        name = variable.removesuffix(MARK)
        if environment.get(name):
            raise SettingsError(f"{name} and {variable} are both set: remove one of them")
        try:
            environment[name] = Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:  # the error of a file that is no text contains its bytes
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8, or no path"
            raise SettingsError(f"{variable}: cannot read the file: {reason}") from None
        del environment[variable]  # this process may start others
