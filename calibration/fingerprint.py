"""What a measured time depends on beside the graph: the machine, the libraries, and how they were used."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.fields import Fields

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Fingerprint:
    """A device as it was used. Times taken under two different fingerprints do not go into one table."""

    processor: str
    """Its name, as far as the system tells."""
    cores: int
    """Cores that the process may use."""
    governor: str | None
    """Frequency governor of the first core; None where the system does not tell, as in most virtual machines."""
    os: str
    """Operating system, release, architecture."""
    threads: int
    """Threads that the backend was told to use; 0: one for each core."""
    libraries: dict[str, str]
    """Version of each library that runs the graphs or made them."""

    def differences(self, other: Fingerprint) -> list[str]:
        """A line for each field in which `other` differs, with both values."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} is {theirs[name]!r}, not {mine[name]!r}" for name in mine if mine[name] != theirs[name]]

    def to_json(self) -> dict[str, Any]:
        """The value that `from_json` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, source: str) -> Fingerprint:
        """Raises ValueError naming `source` (file and field), the field and what it must be."""
        f = Fields(value, source)
        fingerprint = cls(
            processor=f.text("processor"),
            cores=f.integer("cores", 1, 1 << 16),
            governor=f.optional("governor", f.text),
            os=f.text("os"),
            threads=f.integer("threads", 0, 1 << 16),
            libraries=_texts(f, "libraries"),
        )
        f.done()
        return fingerprint


def this_machine(threads: int, libraries: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of the machine that this process runs on."""
    try:
        governor = GOVERNOR.read_text().strip() or None
    except OSError:
        governor = None
    return Fingerprint(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        governor=governor,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        threads=threads,
        libraries=dict(sorted(libraries.items())),
    )


def _texts(f: Fields, name: str) -> dict[str, str]:
    value = f.take(name)
    if not isinstance(value, dict) or not all(isinstance(v, str) and v for v in value.values()):
        f.refuse(name, "an object of texts")
    return dict(value)
