"""Strict YAML into frozen dataclasses: recipes and dataset descriptions.

The schema is the dataclass itself. Supported field types: int, float, bool, str, None, Literal, fixed and open tuples,
dict[str, X], nested dataclasses, and unions of these. Every problem of a file is found in one reading and raised in one
ValueError, a line each: file, line, dotted key, value, what is wrong, and the nearest valid key where a key is unknown.

Scalars follow YAML 1.2: only true and false are booleans, 1e-3 is a number, 017 is refused. What another YAML reader
could take for something else than text (yes, 12:30, 2024-01-31) must stand in quotes to be text. Aliases, anchors and
tags are refused: no file that a person writes here needs them, and they make a small file a huge or a harmful one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

T = TypeVar("T")

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity)|\.?nan", re.IGNORECASE)
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = ("", "~", "null", "Null", "NULL")
_STR_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class _Scalar:
    where: str
    text: str
    plain: bool  # False: written in quotes or as a block, and so always text


@dataclass(frozen=True)
class _List:
    where: str
    items: tuple[_Node, ...]


@dataclass
class _Map:
    where: str
    entries: dict[str, tuple[str, _Node]]  # key -> (where the key stands, value)


_Node: typing.TypeAlias = "_Scalar | _List | _Map"


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
    root = _compose(text, lambda line: f"{name}:{line}", problems)
    if not isinstance(root, _Map):
        what = "is empty" if _is_null(root) else f"holds {_describe(root)}"
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
    return dumper.represent_scalar(_STR_TAG, text, style=None if _is_text(text) else '"')


_Dumper.add_representer(str, _represent_str)


# From text to nodes that know where they stand


def _compose(text: str, where: typing.Callable[[int], str], problems: list[str]) -> _Node:
    """The one document in `text`. Duplicate keys go to `problems`; what cannot be read at all raises ValueError."""
    line = 1
    try:
        events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.StreamEndEvent):
                return _Scalar(where(1), "", True)
            if isinstance(event, yaml.DocumentStartEvent):
                break
        root = _node(next(events), events, where, 0, problems)
        next(events)  # the end of the document
        after = next(events)
        if isinstance(after, yaml.DocumentStartEvent):
            line = after.start_mark.line + 1  # type: ignore[union-attr]
            raise _Refused(line, "a second document starts here; one file holds one document")
        return root
    except _Refused as e:
        raise ValueError(f"{where(e.line)}: {e}") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = mark.line + 1 if mark else line
        at = f", column {mark.column + 1}" if mark else ""
        what = ", ".join(part for part in (e.context, e.problem) if part)
        raise ValueError(f"{where(line)}: not valid YAML{at}: {what}") from None
    except yaml.reader.ReaderError as e:
        line = text.count("\n", 0, e.position) + 1
        raise ValueError(f"{where(line)}: not text: character {e.position} is a control character") from None
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as e:  # "\U99999999", %YAML 9999...
        raise ValueError(f"{where(line)}: not valid YAML: {e}") from None


class _Refused(Exception):
    """Valid YAML that this reader does not take."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _node(event: Any, events: Iterator[Any], where: typing.Callable[[int], str], depth: int, problems: list[str]) -> _Node:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise _Refused(line, f"anchors and aliases (&{event.anchor}, *{event.anchor}) are refused; write the value out")
    if getattr(event, "tag", None):
        raise _Refused(line, f"the tag {event.tag} is refused; write plain values without tags")
    if depth > MAX_DEPTH:
        raise _Refused(line, f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(event, yaml.ScalarEvent):
        if any("\ud800" <= c <= "\udfff" for c in event.value):
            raise _Refused(line, "an escape names half a surrogate pair; write the character itself")
        return _Scalar(where(line), event.value, event.style is None)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, where, depth + 1, problems))
        return _List(where(line), tuple(items))
    entries: dict[str, tuple[str, _Node]] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key_line = event.start_mark.line + 1
        key = _node(event, events, where, depth + 1, problems)
        if not isinstance(key, _Scalar):
            raise _Refused(key_line, f"a key must be a name, not {_describe(key)}")
        value = _node(next(events), events, where, depth + 1, problems)
        if key.text in entries:
            problems.append(f"{where(key_line)}: {key.text}: this key stands twice, first at {entries[key.text][0]}")
        entries[key.text] = (where(key_line), value)
    return _Map(where(line), entries)


def _set(root: _Map, override: str, problems: list[str]) -> None:
    """Put the override "a.b=value" into the tree; the mappings on the way are made where they are missing."""
    where = f"--set {_short(override)}"
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        problems.append(f"{where}: needs the form key=value or key.key=value, such as --set train.epochs=3")
        return
    try:
        value = _compose(text, lambda line: where, problems)
    except ValueError as e:
        problems.append(str(e))
        return
    node = root
    for depth, name in enumerate(names[:-1]):
        child = node.entries.get(name, (where, _Scalar(where, "", True)))[1]
        if _is_null(child):
            child = _Map(where, {})
            node.entries[name] = (where, child)
        if not isinstance(child, _Map):
            path = ".".join(names[: depth + 1])
            problems.append(f"{where}: {path} is {_describe(child)} at {child.where}, without keys; set {path} itself")
            return
        node = child
    node.entries[names[-1]] = (where, value)


# From nodes to values


def _convert(node: _Node, hint: Any, key: str, problems: list[str]) -> Any:
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
        if not isinstance(node, _Scalar):
            raise ValueError(f"needs {_needs(hint)}")
        return _scalar(node, hint)
    except ValueError as e:
        problems.append(f"{node.where}: {key} = {_describe(node)}: {e}")
        return _BAD


def _union(node: _Node, hints: tuple[Any, ...], key: str, problems: list[str]) -> Any:
    if type(None) in hints and _is_null(node):
        return None
    hints = tuple(h for h in hints if h is not type(None))
    # Text fits almost everything, so it is tried last; of whole and other numbers, the narrower is tried first.
    order = {bool: 0, int: 1, float: 2, str: 4}
    best: list[str] | None = None
    fitting = [h for h in hints if _takes(h, node)]
    for hint in sorted(fitting, key=lambda h: order.get(h, 3) if isinstance(h, type) else 3):
        found: list[str] = []
        value = _convert(node, hint, key, found)
        if not found:
            return value
        if best is None or len(found) < len(best):
            best = found
    if best is None or (len(fitting) > 1 and isinstance(node, _Scalar)):
        best = [f"{node.where}: {key} = {_describe(node)}: needs {' or '.join(_needs(h) for h in hints)}"]
    problems.extend(best)
    return _BAD


def _takes(hint: Any, node: _Node) -> bool:
    """Whether a value of type `hint` is written as a node of this sort."""
    origin = typing.get_origin(hint)
    if isinstance(node, _Map):
        return dataclasses.is_dataclass(hint) or origin is dict
    if isinstance(node, _List):
        return origin is tuple
    return not dataclasses.is_dataclass(hint) and origin not in (dict, tuple)


def _dataclass(node: _Node, kind: type[Any], key: str, problems: list[str]) -> Any:
    if not isinstance(node, _Map):
        problems.append(f"{node.where}: {key} = {_describe(node)}: needs {_needs(kind)}")
        return _BAD
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    prefix = f"{key}." if key else ""
    before = len(problems)
    for name, (where, child) in node.entries.items():
        if name in _keys(kind):
            values[name] = _convert(_at(child, where), hints[name], prefix + name, problems)
        else:
            problems.append(f"{where}: {prefix}{name} = {_describe(child)}: unknown key; {_nearest(name, _keys(kind), prefix)}")
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
                value = f" = {_describe(given)}" if given else ""
                problems.append(f"{where}: {prefix}{name}{value}: {rest}")
            else:
                problems.append(f"{node.where}: {key + ': ' if key else ''}{message}")
        return _BAD


def _tuple(node: _Node, hints: tuple[Any, ...], key: str, problems: list[str]) -> Any:
    many = len(hints) == 2 and hints[1] is Ellipsis
    if not isinstance(node, _List) or not (many or len(node.items) == len(hints)):
        needs = _needs(tuple[hints])  # type: ignore[valid-type]
        problems.append(f"{node.where}: {key} = {_describe(node)}: needs {needs}")
        return _BAD
    values = [_convert(item, hints[0] if many else hints[i], f"{key}[{i}]", problems) for i, item in enumerate(node.items)]
    return _BAD if any(isinstance(v, _Bad) for v in values) else tuple(values)


def _dict(node: _Node, hint: Any, key: str, problems: list[str]) -> Any:
    if not isinstance(node, _Map):
        problems.append(f"{node.where}: {key} = {_describe(node)}: needs a mapping of names to {_needs(hint)}")
        return _BAD
    values = {n: _convert(_at(v, where), hint, f"{key}.{n}", problems) for n, (where, v) in node.entries.items()}
    return _BAD if any(isinstance(v, _Bad) for v in values.values()) else values


def _scalar(node: _Scalar, hint: Any) -> Any:
    """The value of one scalar. Raises ValueError with what is wrong, without place and value."""
    if typing.get_origin(hint) is Literal:
        return _literal(node, typing.get_args(hint))
    if hint is str:
        if node.plain and not _is_text(node.text):
            raise ValueError("is not text as it stands; put it in quotes")
        return node.text
    if hint is bool and node.plain and node.text in _BOOL:
        return _BOOL[node.text]
    if hint is int and node.plain and _INT.fullmatch(node.text):
        if len(node.text) > 19:
            raise ValueError("is too large; needs a whole number of at most 18 digits")
        return int(node.text)
    if hint is float and node.plain:
        if _FLOAT.fullmatch(node.text) and math.isfinite(float(node.text)):
            return float(node.text)
        if _FLOAT.fullmatch(node.text) or _NOT_FINITE.fullmatch(node.text):
            raise ValueError("is not finite; needs a finite number")
    if hint not in (bool, int, float):
        raise TypeError(f"{hint} is not a type that a YAML field can have")
    raise ValueError(f"needs {_needs(hint)}")


def _literal(node: _Scalar, choices: tuple[Any, ...]) -> Any:
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
    near = difflib.get_close_matches(name, keys, n=1) or difflib.get_close_matches(name.lower(), keys, n=1)
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
        each = f", each {_needs(arguments[0])}" if same else f": {', '.join(_needs(a) for a in arguments)}"
        return f"a list of {len(arguments)}{each}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with the keys {', '.join(_keys(hint))}"
    return "a mapping"


def _describe(node: _Node) -> str:
    if isinstance(node, _Map):
        return "a mapping"
    if isinstance(node, _List):
        flat = ", ".join(i.text if isinstance(i, _Scalar) else "..." for i in node.items)
        return _short(f"[{flat}]")
    if _is_null(node):
        return "null"
    return _short(node.text) if node.plain else f"'{_short(node.text)}'"


def _show(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(text: str) -> str:
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else text[:77] + "..."


def _at(node: _Node, where: str) -> _Node:
    """The node, said to stand where its key stands: that is the line a reader looks for."""
    return dataclasses.replace(node, where=where)


def _is_null(node: _Node) -> bool:
    return isinstance(node, _Scalar) and node.plain and node.text in _NULL


def _is_text(plain: str) -> bool:
    """Whether every YAML reader takes this unquoted scalar for text."""
    if plain in _NULL or _INT.fullmatch(plain) or _FLOAT.fullmatch(plain) or _NOT_FINITE.fullmatch(plain):
        return False
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    return tag == _STR_TAG


_RESOLVER = yaml.resolver.Resolver()
