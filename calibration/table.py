"""A latency table: the time of every piece of a network on one device, frozen to one JSON file.

The latency of a network is the sum over its pieces (SqueezeNAS, section 4.3; the lookup table is FBNet's). How good that
sum is has to be measured for each device: see `docs/measurements.md`.

An entry's time is the median over rounds; in one round every entry was timed once, so that drift of the machine hits all of
them alike. Its error is the standard error of that median, estimated from the rounds' median absolute deviation. It says how
well the piece was timed, not how well the sum fits a whole network.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgesmith.deploy.engines import BACKENDS, Backend
from edgesmith.deploy.fields import Fields
from edgesmith.deploy.files import read_json, sha256_json, write_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.parts import Part, parts

from .fingerprint import Fingerprint

FORMAT = 1
MAX_ROUNDS = 1000


def error_of_median(samples: Sequence[float]) -> float:
    """Standard error of the median: 1.2533 standard deviations / sqrt(samples), the deviation being 1.4826 MAD."""
    middle = statistics.median(samples)
    deviation = 1.4826 * statistics.median(abs(t - middle) for t in samples)
    return 1.2533 * deviation / math.sqrt(len(samples))


@dataclass(frozen=True)
class Entry:
    """What was measured of one piece."""

    rounds_ms: tuple[float, ...]
    """One time a round, each the median of `repeats` runs."""
    repeats: int
    digest: str
    """SHA-256 of the graph that was timed: the piece exported alone, with weights that only its shapes determine."""

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)

    @property
    def error_ms(self) -> float:
        return error_of_median(self.rounds_ms)

    def to_json(self) -> dict[str, Any]:
        return {
            "median_ms": round(self.median_ms, 6),
            "error_ms": round(self.error_ms, 6),
            "rounds_ms": list(self.rounds_ms),
            "repeats": self.repeats,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Any, source: str) -> Entry:
        """Raises ValueError naming `source` (file and entry), the field and what it must be."""
        f = Fields(value, source)
        rounds = f.take("rounds_ms")
        if not isinstance(rounds, list) or not 1 <= len(rounds) <= MAX_ROUNDS or not all(map(_time, rounds)):
            f.refuse("rounds_ms", f"a list of 1 to {MAX_ROUNDS} times in ms")
        entry = cls(tuple(map(float, rounds)), f.integer("repeats", 1, 1 << 30), f.sha256("digest"))
        for name, meant in (("median_ms", entry.median_ms), ("error_ms", entry.error_ms)):
            if f.take(name) != round(meant, 6):
                f.refuse(name, f"{round(meant, 6)}, which is what rounds_ms give; the file was changed by hand")
        f.done()
        return entry


@dataclass(frozen=True)
class Total:
    """The summed latency of one architecture."""

    latency_ms: float
    error_ms: float | None
    """Errors of different entries are independent, that of one entry counts as often as the entry. None where the table has
    none."""
    parts: tuple[tuple[str, str, float], ...]
    """(name in the network, key of the entry, ms) in order of execution."""


@dataclass(frozen=True)
class Table:
    """Times of pieces at one input size and number of classes, on one backend of one device."""

    input_hw: tuple[int, int]
    """Frame and network size in pixels."""
    classes: int
    backend: Backend
    rounds: int
    """Rounds that a finished entry has."""
    fingerprint: Fingerprint
    entries: Mapping[str, Entry] = field(default_factory=dict)
    """By `Part.key`; an entry with fewer rounds than the table's is unfinished."""
    source: str = field(default="the table", compare=False)
    """The file it came from, for messages."""

    @classmethod
    def read(cls, path: Path) -> Table:
        """Raises FileNotFoundError, or ValueError naming the file, the field and what it must be."""
        f = Fields(read_json(path), str(path))
        f.one_of("format", (FORMAT,))
        entries = f.take("entries")
        if not isinstance(entries, dict):
            f.refuse("entries", "an object with one entry for each piece")
        table = cls(
            input_hw=f.size("input_hw"),
            classes=f.integer("classes", 1, 255),
            backend=f.one_of("backend", BACKENDS),
            rounds=f.integer("rounds", 1, MAX_ROUNDS),
            fingerprint=Fingerprint.from_json(f.take("fingerprint"), f"{path}: fingerprint"),
            entries={key: Entry.from_json(v, f"{path}: entries[{key!r}]") for key, v in entries.items()},
            source=str(path),
        )
        f.done()
        return table

    def write(self, path: Path) -> None:
        """Replace the file by this table, whole or not at all."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "input_hw": list(self.input_hw),
            "classes": self.classes,
            "backend": self.backend,
            "rounds": self.rounds,
            "fingerprint": self.fingerprint.to_json(),
            "entries": {key: entry.to_json() for key, entry in self.entries.items()},
        }

    @property
    def digest(self) -> str:
        """SHA-256 over all that the file says (hexadecimal): a table is a frozen input of the stages that read it."""
        return sha256_json(self.to_json())

    @property
    def going_on(self) -> str:
        """The options with which `edgesmith table measure` goes on with this table."""
        return f"{f'--threads {self.fingerprint.threads} ' if self.fingerprint.threads else ''}--out {self.source}"

    def entry(self, part: Part, of: str = "SPACE") -> Entry:
        """The finished entry of `part`. Raises ValueError with the command that measures it, as a piece of `of`."""
        found = self.entries.get(part.key)
        if found is None or len(found.rounds_ms) < self.rounds:
            h, w = self.input_hw
            raise ValueError(
                f"{self.source} has no {'' if found is None else 'finished '}entry {part.key!r}: "
                f"edgesmith table measure {of} --input {h}x{w} --classes {self.classes} {self.going_on}"
            )
        return found

    def latency_ms(self, part: Part, of: str = "SPACE") -> float:
        """The time of `part` in ms, 0 where nothing runs. Raises ValueError as `entry` does."""
        return 0.0 if part.empty else self.entry(part, of).median_ms

    def total(self, arch: Arch, task: Segmentation, of: str = "SPACE") -> Total:
        """The summed latency of `arch` from camera frame to label map.

        Raises ValueError when the table is for another number of classes or an entry is missing, with the command that measures
        it: `of` is what that calls the network, zoo:NAME or ARCH.json.
        """
        if task.classes != self.classes:
            raise ValueError(f"{self.source} was measured for {self.classes} classes, not for {task.classes}")
        found = [(name, part) for name, part in parts(arch, task, self.input_hw) if not part.empty]
        errors: dict[str, float] = {}
        for _, part in found:
            errors[part.key] = errors.get(part.key, 0.0) + self.entry(part, of).error_ms
        rows = tuple((name, part.key, self.entry(part, of).median_ms) for name, part in found)
        return Total(sum(ms for _, _, ms in rows), sum(e**2 for e in errors.values()) ** 0.5, rows)

    def with_round(self, part: Part, time_ms: float, repeats: int, digest: str, measured_on: Fingerprint) -> Table:
        """A copy with one more round of `part`. Raises ValueError when it was measured elsewhere or on another graph."""
        self.require_same_machine(measured_on)
        old = self.entries.get(part.key, Entry((), repeats, digest))
        if (old.repeats, old.digest) != (repeats, digest):
            raise ValueError(
                f"{self.source}: {part.key!r} was measured with {old.repeats} repeats of graph {old.digest[:12]}, "
                f"now {repeats} of {digest[:12]}; name another --out"
            )
        entry = replace(old, rounds_ms=(*old.rounds_ms, round(time_ms, 6)))
        return replace(self, entries={**self.entries, part.key: entry})

    def require_same_machine(self, fingerprint: Fingerprint) -> None:
        """Raise ValueError with what differs unless the table was measured under `fingerprint`."""
        if differences := self.fingerprint.differences(fingerprint):
            raise ValueError(
                f"{self.source} was measured elsewhere: here {', '.join(differences)}; name another --out, "
                "times of two machines do not go into one table"
            )


def _time(value: Any) -> bool:
    # A time less the time of its surroundings can come out slightly below zero; median and sum bear it.
    return type(value) in (int, float) and abs(value) < 1e9
