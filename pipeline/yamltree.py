"""YAML text as nodes that know where they stand: what yamlfile.py turns into dataclasses.

Only plain mappings, lists and scalars come through. Aliases, anchors and tags are refused: no file that a person writes
here needs them, and they make a small file a huge or a harmful one.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 32
INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.?(inf|infinity)|\.?nan", re.IGNORECASE)
_NULL = ("", "~", "null", "Null", "NULL")
STR_TAG = "tag:yaml.org,2002:str"
_RESOLVER = yaml.resolver.Resolver()


@dataclass(frozen=True)
class Scalar:
    where: str
    text: str
    plain: bool  # False: written in quotes or as a block, and so always text


@dataclass(frozen=True)
class List:
    where: str
    items: tuple[Node, ...]


@dataclass
class Map:
    where: str
    entries: dict[str, tuple[str, Node]]  # key -> (where the key stands, value)


Node: typing.TypeAlias = "Scalar | List | Map"


def compose(text: str, where: Callable[[int], str], problems: list[str]) -> Node:
    """The one document in `text`. Duplicate keys go to `problems`; what cannot be read at all raises ValueError."""
    line = 1
    try:
        events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.StreamEndEvent):
                return Scalar(where(1), "", True)
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
    except (yaml.YAMLError, ValueError, OverflowError) as e:
        # PyYAML lets some numbers out of range through to int() and chr(): "\U99999999", %YAML 999...
        raise ValueError(f"{where(line)}: not valid YAML: {e}") from None


class _Refused(Exception):
    """Valid YAML that this reader does not take."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _node(event: Any, events: Iterator[Any], where: Callable[[int], str], depth: int, problems: list[str]) -> Node:
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
        return Scalar(where(line), event.value, event.style is None)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, where, depth + 1, problems))
        return List(where(line), tuple(items))
    entries: dict[str, tuple[str, Node]] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key_line = event.start_mark.line + 1
        key = _node(event, events, where, depth + 1, problems)
        if not isinstance(key, Scalar):
            raise _Refused(key_line, f"a key must be a name, not {describe(key)}")
        value = _node(next(events), events, where, depth + 1, problems)
        if key.text in entries:
            problems.append(f"{where(key_line)}: {key.text}: this key stands twice, first at {entries[key.text][0]}")
        entries[key.text] = (where(key_line), value)
    return Map(where(line), entries)


def describe(node: Node) -> str:
    if isinstance(node, Map):
        return "a mapping"
    if isinstance(node, List):
        flat = ", ".join(i.text if isinstance(i, Scalar) else "..." for i in node.items)
        return short(f"[{flat}]")
    if is_null(node):
        return "null"
    return short(node.text) if node.plain else f"'{short(node.text)}'"


def short(text: str) -> str:
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= 80 else text[:77] + "..."


def is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.text in _NULL


def is_text(plain: str) -> bool:
    """Whether every YAML reader takes this unquoted scalar for text."""
    if plain in _NULL or INT.fullmatch(plain) or FLOAT.fullmatch(plain) or NOT_FINITE.fullmatch(plain):
        return False
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    return tag == STR_TAG
