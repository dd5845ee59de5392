"""Strict YAML into frozen dataclasses: recipes and dataset descriptions.

The schema is the dataclass itself. Supported field types: int, float, bool, str, None, Literal, fixed and open tuples,
dict[str, X], nested dataclasses, and unions of these. Of several dataclasses, a field that takes a single word in each of them
says which one is meant (`tag`); the first, where it is left out. Every problem of a file is found in one reading and raised in
one ValueError, a line each: file, line, dotted key, value, what is wrong, and the nearest valid key where a key is unknown.

Scalars follow YAML 1.2: only true and false are booleans, 1e-3 is a number, 017 is refused. What another YAML reader
could take for something else than text (yes, 12:30, 2024-01-31) must stand in quotes to be text. Aliases, anchors and
tags are refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from .yamltree import FLOAT, INT, NOT_FINITE, STR_TAG, List, Map, Node, Scalar, compose, describe, is_null, is_text, short

T = TypeVar("T")

MAX_BYTES = 1 << 20
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class _Bad:
    """What stands in for a value that could not be converted; the problem is already noted."""


_BAD = _Bad()


def read(path: Path | str, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """The file at `path` as a `kind` (a dataclass), after `overrides` ("a.b=value", the value in YAML) were set in it.

    Raises ValueError with one line for each problem, OSError when the file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as f:
        data = f.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: larger than {MAX_BYTES // 1024} KiB; this is not a recipe or a dataset description")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise ValueError(f"{path}:{line}: byte {e.start} is not UTF-8; save the file as UTF-8 text") from None
    return parse(text, str(path), kind, overrides)


def parse(text: str, name: str, kind: type[T], overrides: Sequence[str] = ()) -> T:
    """As `read`, for text that is already in memory; `name` stands for the file in messages."""
    problems: list[str] = []
    root = compose(text, lambda line: f"{name}:{line}", problems)
    if not isinstance(root, Map):
        what = "is empty" if is_null(root) else f"holds {describe(root)}"
        raise ValueError(f"{name}:1: {what}; needs a mapping with the keys {', '.join(_keys(kind))}")
    for override in overrides:
        _set(root, override, problems)
    value = _dataclass(root, kind, "", problems)
    if problems or isinstance(value, _Bad):
        raise ValueError("\n".join(problems))
    return typing.cast(T, value)


def dump(value: Any) -> str:
    """A dataclass as YAML text with every field written out; `read` gives an equal value back."""
    text: str = yaml.dump(
        _plain(value), Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
    )
    return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written to a recipe; numbers must be finite")
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes text that this module's reader, stricter than YAML 1.1, would not take for text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: _Dumper, text: str) -> yaml.Node:
    return dumper.represent_scalar(STR_TAG, text, style=None if is_text(text) and text.isprintable() else '"')


_Dumper.add_representer(str, _represent_str)


def _set(root: Map, override: str, problems: list[str]) -> None:
    """Put the override "a.b=value" into the tree; the mappings on the way are made where they are missing."""
    where = f"--set {short(override)}"
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        problems.append(f"{where}: needs the form key=value or key.key=value, such as --set train.epochs=3")
        return
    try:
        value = compose(text, lambda line: where, problems)
    except ValueError as e:
        problems.append(str(e))
        return
    node = root
    for depth, name in enumerate(names[:-1]):
        child = node.entries.get(name, (where, Scalar(where, "", True)))[1]
        if is_null(child):
            child = Map(where, {})
            node.entries[name] = (where, child)
        if not isinstance(child, Map):
            path = ".".join(names[: depth + 1])
            problems.append(f"{where}: {path} is {describe(child)} at {child.where}, without keys; set {path} itself")
            return
        node = child
    node.entries[names[-1]] = (where, value)


# From nodes to values


def _convert(node: Node, hint: Any, key: str, problems: list[str]) -> Any:
    """`node` as a value of type `hint`, or _BAD after the reasons went to `problems`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(node, arguments, key, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(node, hint, key, problems)
    if origin is tuple:
        return _tuple(node, arguments, key, problems)
    if origin is dict:
        return _dict(node, arguments[1], key, problems)
    try:
        if not isinstance(node, Scalar):
            raise ValueError(f"needs {_needs(hint)}")
        return _scalar(node, hint)
    except ValueError as e:
        problems.append(f"{node.where}: {key} = {describe(node)}: {e}")
        return _BAD


def _union(node: Node, hints: tuple[Any, ...], key: str, problems: list[str]) -> Any:
    if type(None) in hints and is_null(node):
        return None
    hints = tuple(h for h in hints if h is not type(None))
    # Text fits almost everything, so it is tried last; of whole and other numbers, the narrower is tried first.
    order = {bool: 0, int: 1, float: 2, str: 4}
    best: list[str] | None = None
    fitting = [h for h in hints if _takes(h, node)]
    if isinstance(node, Map) and (tagged := tag(fitting)) is not None:
        return _tagged(node, *tagged, key, problems)
    for hint in sorted(fitting, key=lambda h: order.get(h, 3) if isinstance(h, type) else 3):
        found: list[str] = []
        value = _convert(node, hint, key, found)
        if not found:
            return value
        if best is None or len(found) < len(best):
            best = found
    if best is None or (len(fitting) > 1 and isinstance(node, Scalar)):
        best = [f"{node.where}: {key} = {describe(node)}: needs {' or '.join(_needs(h) for h in hints)}"]
    problems.extend(best)
    return _BAD


def _tagged(node: Map, name: str, kinds: dict[str, type[Any]], key: str, problems: list[str]) -> Any:
    """`node` as that one of `kinds` whose word stands under `name`: as the first, where there is none."""
    first = next(iter(kinds))
    # Where the word is wrong or missing, the one that knows most keys is probably meant: its other problems are told too.
    meant = max(kinds, key=lambda word: sum(k in _keys(kinds[word]) for k in node.entries))
    if name in node.entries:
        where, given = node.entries[name]
        word = _convert(_at(given, where), Literal[tuple(kinds)], f"{key}.{name}", problems)
        if not isinstance(word, _Bad):
            return _dataclass(node, kinds[word], key, problems)
    elif meant == first:
        return _dataclass(node, kinds[first], key, problems)
    else:
        theirs = [k for k in node.entries if k in _keys(kinds[meant]) and k not in _keys(kinds[first])]
        belong = "is a field" if len(theirs) == 1 else "are fields"
        problems.append(f"{node.where}: {key}: {', '.join(theirs)} {belong} of {name} {meant}; add `{name}: {meant}`")
    others = {k: entry for k, entry in node.entries.items() if k != name}
    _dataclass(Map(node.where, others), kinds[meant], key, problems)
    return _BAD


def tag(hints: Sequence[Any]) -> tuple[str, dict[str, type[Any]]] | None:
    """What tells several dataclasses apart: a field that takes one word alone in each, no two the same, as in
    `method: Literal["squeezenas"]`. Its name, and word -> dataclass; None where there is no such field."""
    if len(hints) < 2 or not all(dataclasses.is_dataclass(h) for h in hints):
        return None
    for name in _keys(hints[0]):
        words = [_only_word(typing.get_type_hints(h).get(name)) for h in hints]
        if None not in words and len(set(words)) == len(words):
            return name, dict(zip(typing.cast("list[str]", words), hints, strict=True))
    return None


def _only_word(hint: Any) -> str | None:
    words = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    return words[0] if len(words) == 1 and isinstance(words[0], str) else None


def _takes(hint: Any, node: Node) -> bool:
    """Whether a value of type `hint` is written as a node of this sort."""
    origin = typing.get_origin(hint)
    if isinstance(node, Map):
        return dataclasses.is_dataclass(hint) or origin is dict
    if isinstance(node, List):
        return origin is tuple
    return not dataclasses.is_dataclass(hint) and origin not in (dict, tuple)


def _dataclass(node: Node, kind: type[Any], key: str, problems: list[str]) -> Any:
    if not isinstance(node, Map):
        problems.append(f"{node.where}: {key} = {describe(node)}: needs {_needs(kind)}")
        return _BAD
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    prefix = f"{key}." if key else ""
    before = len(problems)
    for name, (where, child) in node.entries.items():
        if name in _keys(kind):
            values[name] = _convert(_at(child, where), hints[name], prefix + name, problems)
        else:
            problems.append(f"{where}: {prefix}{name} = {describe(child)}: unknown key; {_nearest(name, _keys(kind), prefix)}")
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and required and field.name not in values:
            problems.append(f"{node.where}: {prefix}{field.name}: missing; needs {_needs(hints[field.name])}")
    if len(problems) > before:
        return _BAD
    try:
        return kind(**values)
    except ValueError as e:
        for message in str(e).splitlines():
            name, colon, rest = message.partition(": ")
            if colon and name in _keys(kind):
                where, given = node.entries.get(name) or (node.where, None)
                value = f" = {describe(given)}" if given else ""
                problems.append(f"{where}: {prefix}{name}{value}: {rest}")
            else:
                problems.append(f"{node.where}: {key + ': ' if key else ''}{message}")
        return _BAD


def _tuple(node: Node, hints: tuple[Any, ...], key: str, problems: list[str]) -> Any:
    many = len(hints) == 2 and hints[1] is Ellipsis
    if not isinstance(node, List) or not (many or len(node.items) == len(hints)):
        needs = _needs(tuple[hints])  # type: ignore[valid-type]
        problems.append(f"{node.where}: {key} = {describe(node)}: needs {needs}")
        return _BAD
    values = [_convert(item, hints[0] if many else hints[i], f"{key}[{i}]", problems) for i, item in enumerate(node.items)]
    return _BAD if any(isinstance(v, _Bad) for v in values) else tuple(values)


def _dict(node: Node, hint: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(node, Map):
        problems.append(f"{node.where}: {key} = {describe(node)}: needs a mapping of names to {_needs(hint)}")
        return _BAD
    values = {n: _convert(_at(v, where), hint, f"{key}.{n}", problems) for n, (where, v) in node.entries.items()}
    return _BAD if any(isinstance(v, _Bad) for v in values.values()) else values


def _scalar(node: Scalar, hint: Any) -> Any:
    """The value of one scalar. Raises ValueError with what is wrong, without place and value."""
    if typing.get_origin(hint) is Literal:
        return _literal(node, typing.get_args(hint))
    if hint is str:
        if node.plain and not is_text(node.text):
            raise ValueError("is not text as it stands; put it in quotes")
        return node.text
    if hint is bool and node.plain and node.text in _BOOL:
        return _BOOL[node.text]
    if hint is int and node.plain and INT.fullmatch(node.text):
        if len(node.text) > 19:
            raise ValueError("is too large; needs a whole number of at most 18 digits")
        return int(node.text)
    if hint is float and node.plain:
        if FLOAT.fullmatch(node.text) and math.isfinite(float(node.text)):
            return float(node.text)
        if FLOAT.fullmatch(node.text) or NOT_FINITE.fullmatch(node.text):
            raise ValueError("is not finite; needs a finite number")
    if hint not in (bool, int, float):
        raise TypeError(f"{hint} is not a type that a YAML field can have")
    raise ValueError(f"needs {_needs(hint)}")


def _literal(node: Scalar, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        try:
            if _scalar(node, type(choice)) == choice:
                return choice
        except ValueError:
            continue
    names = [str(c) for c in choices]
    near = difflib.get_close_matches(node.text, names, n=1)
    raise ValueError(f"needs {_needs(Literal[choices])}" + (f"; did you mean {near[0]}?" if near else ""))


# Words for messages


def _keys(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if f.init]


def _nearest(name: str, keys: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(name.lower(), keys, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"valid keys are {', '.join(keys)}"


def _needs(hint: Any) -> str:
    """What a field of this type takes, in the words of someone who writes YAML."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(_show(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_needs(a) for a in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list, each {_needs(arguments[0])}"
    if origin is tuple:
        same = len(set(arguments)) == 1
        if arguments == (int, int):  # a size, height x width
            return "a list of 2, each a whole number, such as [360, 480]"
        each = f", each {_needs(arguments[0])}" if same else f": {', '.join(_needs(a) for a in arguments)}"
        return f"a list of {len(arguments)}{each}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with the keys {', '.join(_keys(hint))}"
    return "a mapping"


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at(node: Node, where: str) -> Node:
    """The node, said to stand where its key stands: that is the line a reader looks for."""
    return dataclasses.replace(node, where=where)
