from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from edgesmith.deploy.files import write_text
from edgesmith.pipeline.artifacts import Architecture, Slot
from edgesmith.pipeline.verbs.options import alone


@dataclass(frozen=True)
class Tries:
    """A stage for tests: it fails as often as `failures` says, and counts its calls in the scratch folder."""

    failures: int
    version: ClassVar[int] = 1

    def __call__(self, given: Architecture, slot: Slot) -> Architecture:
        assert slot.scratch is not None
        tried = len(list(slot.scratch.glob("*")))
        write_text(slot.scratch / str(tried), "")
        if tried < self.failures:
            raise RuntimeError(f"call {tried}")
        with slot.writing(Architecture, [given]) as folder:
            write_text(folder / "calls", str(tried + 1))
        return Architecture(slot.out)


def test_the_scratch_folder_of_a_stage_alone_outlives_failures_and_goes_with_the_result(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    given, out, scratch = Architecture(tmp_path / "given"), tmp_path / "out", tmp_path / ".out.resume"
    with pytest.raises(RuntimeError, match="call 0"):
        alone(Architecture, Tries(1), given, out, scratch)
    assert not out.exists()
    assert [p.name for p in scratch.iterdir()] == ["0"]
    for _ in range(2):  # the second time it is there
        alone(Architecture, Tries(1), given, out, scratch)
        assert (out / "calls").read_text() == "2"
        assert not scratch.exists()
