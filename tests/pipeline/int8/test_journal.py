"""A journal outlives a kill, whole, and belongs to one key."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesmith.deploy.files import read_json
from edgesmith.pipeline.int8.journal import Journal


def test_what_was_found_under_another_key_is_not_used(tmp_path: Path) -> None:
    Journal(tmp_path, "a").put("loss", 1)
    assert Journal(tmp_path, "a").get("loss") == 1
    assert Journal(tmp_path, "b").get("loss") is None
    (tmp_path / "journal.json").write_text('{"key": "a", "fo')
    assert Journal(tmp_path, "a").get("loss") is None


@pytest.mark.parametrize("damage", ["", "[]", "3", '{"key": "a"}', '{"key": "a", "found": 3}', "\xff"])
def test_a_damaged_journal_is_begun_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / "journal.json").write_bytes(damage.encode("latin-1"))
    journal = Journal(tmp_path, "a")
    assert journal.get("loss") is None
    journal.put("loss", 1)
    assert read_json(tmp_path / "journal.json") == {"key": "a", "found": {"loss": 1}}


def test_each_value_is_on_disk_as_soon_as_it_is_found_and_replaces_its_last_one(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    for value in ({"done": 8}, {"done": 16}):
        journal.put("largest", value)
        assert Journal(tmp_path, "a").get("largest") == value
    journal.put("chosen", [1, 2])
    assert Journal(tmp_path, "a").get("largest") == {"done": 16}
    assert [p.name for p in tmp_path.iterdir()] == ["journal.json"]


def test_without_a_folder_values_are_kept_for_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, "a")
    journal.put("loss", 1)
    assert journal.get("loss") == 1
    assert Journal(None, "a").get("loss") is None
    assert not any(tmp_path.iterdir())


def test_a_value_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "a")
    journal.put("loss", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.put("error", float("nan"))
    assert Journal(tmp_path, "a").get("loss") == 1
