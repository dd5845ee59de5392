"""What a long stage has found so far, in a file, so that a killed run goes on where it was."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from edgesmith.deploy.files import read_json, write_json


class Journal:
    """Named JSON values that outlive a kill, each written whole as it comes. What was found under another key is not read."""

    def __init__(self, folder: Path | None, key: str) -> None:
        """In `folder`/journal.json; with None, values are kept for this process only. `key` is the stage's."""
        self._path = None if folder is None else folder / "journal.json"
        self._value: dict[str, Any] = {"key": key, "found": {}}
        with contextlib.suppress(FileNotFoundError, ValueError):
            value = None if self._path is None else read_json(self._path)
            if isinstance(value, dict) and value.get("key") == key and isinstance(value.get("found"), dict):
                self._value = value

    def get(self, name: str) -> Any:
        """The value of that name, None where there is none."""
        return self._value["found"].get(name)

    def put(self, name: str, value: Any) -> None:
        self._value["found"][name] = value
        if self._path is not None:
            write_json(self._path, self._value)
