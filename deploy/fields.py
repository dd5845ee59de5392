"""Reads one JSON object and takes nothing on trust: every field is there and what it must be, and none is left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

MAX_SIDE = 16384
"""Largest height and width in pixels that is taken for one."""


class Fields:
    """Takes the fields of one JSON object, each checked, and refuses what is left over."""

    def __init__(self, value: Any, source: str) -> None:
        self._source = source
        if not isinstance(value, dict):
            raise ValueError(f"{source} is {_short(value)}; it must be a JSON object")
        self._left: dict[str, Any] = dict(value)
        self._all: dict[str, Any] = value

    def refuse(self, name: str, must_be: str) -> NoReturn:
        raise ValueError(f"{self._source}: {name} is {_short(self._all.get(name))}; it must be {must_be}")

    def take(self, name: str) -> Any:
        if name not in self._all:
            raise ValueError(f"{self._source}: {name} is missing")
        self._left.pop(name, None)
        return self._all[name]

    def done(self) -> None:
        if self._left:
            raise ValueError(f"{self._source}: unknown field {', '.join(sorted(self._left))}")

    def optional(self, name: str, read: Callable[[str], T]) -> T | None:
        return None if self.take(name) is None else read(name)

    def one_of(self, name: str, allowed: tuple[T, ...]) -> T:
        value = self.take(name)
        found = [option for option in allowed if type(value) is type(option) and value == option]
        if not found:
            self.refuse(name, " or ".join(repr(a) for a in allowed))
        return found[0]

    def text(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not value or not value.isprintable():
            self.refuse(name, "a non-empty text")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.take(name)
        if not _integer(value, low, high):
            self.refuse(name, f"an integer from {low} to {high}")
        return int(value)

    def size(self, name: str) -> tuple[int, int]:
        value = self.take(name)
        if not (isinstance(value, list) and len(value) == 2 and all(_integer(v, 1, MAX_SIDE) for v in value)):
            self.refuse(name, f"[height, width], integers from 1 to {MAX_SIDE}")
        return value[0], value[1]

    def triple(self, name: str, valid: Callable[[Any], bool], must_be: str) -> tuple[float, float, float]:
        value = self.take(name)
        if not (isinstance(value, list) and len(value) == 3 and all(valid(v) for v in value)):
            self.refuse(name, must_be)
        return float(value[0]), float(value[1]), float(value[2])

    def names(self, name: str, low: int, high: int) -> tuple[str, ...]:
        value = self.take(name)
        if not (isinstance(value, list) and low <= len(value) <= high and all(isinstance(v, str) and v for v in value)):
            self.refuse(name, f"a list of {low} to {high} names")
        if len(set(value)) != len(value):
            self.refuse(name, "a list of different names")
        return tuple(value)

    def palette(self, name: str, count: int) -> tuple[tuple[int, int, int], ...]:
        def colour(v: Any) -> bool:
            return isinstance(v, list) and len(v) == 3 and all(_integer(c, 0, 255) for c in v)

        value = self.take(name)
        if not (isinstance(value, list) and len(value) == count and all(colour(v) for v in value)):
            self.refuse(name, f"{count} colours, one for each class, [red, green, blue] from 0 to 255")
        return tuple((r, g, b) for r, g, b in value)

    def sha256(self, name: str) -> str:
        value = self.take(name)
        if not is_sha256(value):
            self.refuse(name, "a SHA-256, 64 lower-case hexadecimal digits")
        return str(value)


def is_sha256(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # so no NaN


def _integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high  # not bool, which is an int to isinstance


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
