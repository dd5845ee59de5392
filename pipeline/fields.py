"""The fields of a recipe with their types, defaults and the sentences under them: one text for source, `--fields` and docs."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .yamlfile import tag


class Field(NamedTuple):
    """One field that a recipe may set."""

    key: str
    """As `--set` takes it: train.augment.scale."""
    type: str
    default: str
    """As YAML would have it, or "required"."""
    doc: str
    when: str = ""
    """Where a section may be one of several: the word that makes it the one with this field, as in `method fasterseg`."""


def fields_of(kind: type[Any], prefix: str = "") -> Iterator[Field]:
    """The fields of dataclass `kind`, those of nested dataclasses with their path.

    What sections that stand for each other have in common comes once, with the first of them.
    """
    docs, hints = _docs(kind), typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        hint = hints[f.name]
        key = f"{prefix}{f.name}"
        one = typing.get_origin(hint) is not tuple  # a list of sections is set as a whole
        nested = [t for t in (hint, *typing.get_args(hint)) if one and dataclasses.is_dataclass(t) and isinstance(t, type)]
        if not nested or type(None) in typing.get_args(hint):
            yield Field(key, _type_name(f.type, kind), _default(f), docs.get(f.name, ""))
        nested = [t for t in nested if t.__name__ != "Data" or not prefix]  # stages take the recipe's dataset: it stands once
        yield from _inner(nested, f"{key}.")


def _inner(kinds: Sequence[type[Any]], prefix: str) -> Iterator[Field]:
    tagged = tag(kinds)
    if tagged is None:
        for kind in kinds:
            yield from fields_of(kind, prefix)
        return
    name, by_word = tagged
    doc = _docs(kinds[0])[name]
    found = {word: list(fields_of(kind, prefix)) for word, kind in by_word.items()}
    yield Field(f"{prefix}{name}", " or ".join(by_word), next(iter(by_word)), doc)
    common = set.intersection(*(set(fields) for fields in found.values()))
    seen: set[Field] = set()
    for word, fields in found.items():
        for f in fields:
            if f.key != f"{prefix}{name}" and f not in seen:
                yield f if f in common else f._replace(when=f"{name} {word}")
                seen |= {f} & common


def as_text(kind: type[Any]) -> str:
    """All fields as lines for a terminal."""
    lines = []
    for f in fields_of(kind):
        lines.append(f"{f.key}: {f.type} = {f.default}{f'   ({f.when})' if f.when else ''}")
        lines += textwrap.wrap(f.doc, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def _docs(kind: type[Any]) -> dict[str, str]:
    """Field name -> the string literal under it, in the class's source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    found: dict[str, str] = {}
    name = ""
    for node in body.body if isinstance(body, ast.ClassDef) else ():
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
    return found


def _type_name(annotation: Any, kind: type[Any]) -> str:
    """The annotation of a field of `kind`, with the choices in place of names that stand for them."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    known = vars(sys.modules[kind.__module__])

    def choices(word: re.Match[str]) -> str:
        meant = known.get(word[0])
        if typing.get_origin(meant) is not typing.Literal:
            return word[0]
        return f"Literal[{', '.join(map(repr, typing.get_args(meant)))}]"

    return re.sub(r"\b[A-Za-z_]\w*\b", choices, str(text)).replace(" | None", " or null")


def _default(f: dataclasses.Field[Any]) -> str:
    if f.default is not dataclasses.MISSING:
        value = f.default
    elif f.default_factory is not dataclasses.MISSING:
        value = f.default_factory()
    else:
        return "required"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return "[" + ", ".join(str(v) for v in value) + "]"
    return str(value)
