from __future__ import annotations

import dataclasses
import errno
import io
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgesmith.deploy import files
from edgesmith.deploy.files import new_folder, read_json, remove_leftovers, write_json, write_text
from edgesmith.pipeline import events
from edgesmith.pipeline.artifacts import Architecture, Slot, Weights, open_artifact
from edgesmith.pipeline.stage import Pipeline, locked, stage_key


@dataclass(frozen=True)
class Write:
    """A stage for tests: a file with a text."""

    text: str = "one"
    threads: int = field(default=1, metadata={"identity": False})
    version: ClassVar[int] = 1

    def __call__(self, *arguments: Any) -> Architecture:
        *given, slot = arguments
        with slot.writing(Architecture, given) as folder:
            write_text(folder / "text", self.text)
        return Architecture(slot.out)


def pipeline(folder: Path, seen: list[str]) -> Pipeline:
    return Pipeline(folder, lambda event, **fields: seen.append(f"{fields['stage']} {event}"))


def chain(p: Pipeline, text: str) -> None:
    p.run("c", Architecture, Write("three"), p.run("b", Architecture, Write("two"), p.run("a", Architecture, Write(text))))


def test_a_stage_runs_once_and_again_only_when_its_key_changes(tmp_path: Path) -> None:
    seen: list[str] = []
    p = pipeline(tmp_path, seen)
    first = p.run("a", Architecture, Write())
    p.run("b", Architecture, Write("two"), first)
    assert seen == ["a start", "a done", "b start", "b done"]
    seen.clear()
    p.run("b", Architecture, Write("two", threads=8), p.run("a", Architecture, Write(threads=4)))
    assert seen == ["a up-to-date", "b up-to-date"]
    seen.clear()
    p.run("b", Architecture, Write("two"), p.run("a", Architecture, Write("changed")))
    assert seen == ["b kept", "a kept", "a start", "a done", "b start", "b done"]
    assert [(d / "text").read_text() for d in sorted((tmp_path / "replaced").iterdir())] == ["one", "two"]


def test_a_damaged_artifact_is_made_again_and_what_it_held_is_kept_with_the_reason(tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []
    p = Pipeline(tmp_path, lambda event, **fields: seen.append((event, fields.get("why"))))
    digest = p.run("a", Architecture, Write()).digest
    for _ in range(2):
        (tmp_path / "a" / "text").write_text("damaged")
        assert p.run("a", Architecture, Write()).digest == digest
    (why,) = {why for event, why in seen if event == "damaged"}
    assert why.endswith("was changed after it was written (text differs); make it again")
    kept = sorted((tmp_path / "replaced").iterdir())
    assert [k.name for k in kept] == ["a-damaged-1", "a-damaged-2"]
    assert {(k / "text").read_text() for k in kept} == {"damaged"}


def test_an_artifact_that_cannot_be_read_is_no_damaged_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = pipeline(tmp_path, [])
    p.run("a", Architecture, Write())

    def fail(self: Architecture) -> None:
        raise PermissionError("a/text")

    monkeypatch.setattr(Architecture, "check", fail)
    with pytest.raises(PermissionError):
        p.run("a", Architecture, Write())
    assert (tmp_path / "a" / "text").read_text() == "one"


def test_going_back_to_an_earlier_configuration_brings_its_artifact_back(tmp_path: Path) -> None:
    seen: list[str] = []
    p = pipeline(tmp_path, seen)
    first = p.run("a", Architecture, Write()).digest
    p.run("a", Architecture, Write("two"))
    seen.clear()
    assert p.run("a", Architecture, Write()).digest == first
    assert seen == ["a kept", "a brought-back"]
    assert (tmp_path / "a" / "text").read_text() == "one"
    assert [(d / "text").read_text() for d in (tmp_path / "replaced").iterdir()] == ["two"]


def test_what_was_made_of_a_changed_artifact_does_not_stay_beside_the_new_one(tmp_path: Path) -> None:
    seen: list[str] = []
    p = pipeline(tmp_path, seen)

    chain(p, "one")
    p.run("other", Architecture, Write("other"))
    p.run("a", Architecture, Write("changed"))  # and no further, as after a kill
    assert {path.name for path in tmp_path.iterdir()} - {".scratch"} == {"a", "other", "replaced"}
    seen.clear()
    chain(p, "one")
    assert seen == ["a kept", "a brought-back", "b brought-back", "c brought-back"]


def test_a_kill_between_what_is_set_aside_leaves_no_child_without_its_parent(tmp_path: Path) -> None:
    chain(pipeline(tmp_path, []), "one")

    def log(event: str, **fields: Any) -> None:
        if event == "kept":
            raise KeyboardInterrupt

    for left in ({"a", "b"}, {"a"}):
        with pytest.raises(KeyboardInterrupt):
            Pipeline(tmp_path, log).run("a", Architecture, Write("changed"))
        assert {path.name for path in tmp_path.iterdir() if (path / "artifact.json").is_file()} == left


def test_what_was_made_of_a_bundle_before_engines_were_added_goes_with_it(tmp_path: Path) -> None:
    p = pipeline(tmp_path, [])
    chain(p, "one")
    sidecar = read_json(tmp_path / "b" / "artifact.json")
    write_json(tmp_path / "b" / "artifact.json", {**sidecar, "digest": "another", "was": [sidecar["digest"]]})
    p.run("a", Architecture, Write("changed"))
    assert {path.name for path in tmp_path.iterdir() if (path / "artifact.json").is_file()} == {"a"}


def test_a_strange_file_further_down_moves_nothing(tmp_path: Path) -> None:
    p = pipeline(tmp_path, [])
    chain(p, "one")
    (tmp_path / "c" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"c holds notes\.txt"):
        p.run("a", Architecture, Write("changed"))
    assert not (tmp_path / "replaced").exists()


def test_what_a_killed_stage_left_is_no_artifact_that_is_kept(tmp_path: Path) -> None:
    p = pipeline(tmp_path, [])
    chain(p, "one")
    (tmp_path / "c").rename(tmp_path / ".c.abcd1234.tmp")
    sidecar = read_json(tmp_path / "b" / "artifact.json")
    write_json(tmp_path / "b" / "artifact.json", {**sidecar, "parents": ["?", *sidecar["parents"]]})
    p.run("a", Architecture, Write("changed"))
    assert {path.name.split("-")[0] for path in (tmp_path / "replaced").iterdir()} == {"a", "b"}


def test_a_sidecar_without_a_list_of_files_makes_none_of_them_strange(tmp_path: Path) -> None:
    p = pipeline(tmp_path, [])
    p.run("a", Architecture, Write())
    sidecar = read_json(tmp_path / "a" / "artifact.json")
    del sidecar["files"]
    write_json(tmp_path / "a" / "artifact.json", sidecar)
    p.run("a", Architecture, Write("two"))
    assert len(list((tmp_path / "replaced").glob("a-*"))) == 1


def test_strange_files_in_an_artifact_stop_the_run_before_anything_is_made_again(tmp_path: Path) -> None:
    seen: list[str] = []
    p = pipeline(tmp_path, seen)
    p.run("a", Architecture, Write())
    (tmp_path / "a" / "notes.txt").write_text("mine")
    seen.clear()
    for text in ("one", "two"):
        with pytest.raises(ValueError, match=r"a holds notes\.txt, which no stage wrote; move that elsewhere"):
            p.run("a", Architecture, Write(text))
    assert seen == []
    (tmp_path / "a" / "notes.txt").unlink()
    p.run("a", Architecture, Write())
    assert seen == ["a up-to-date"]


def test_a_folder_of_somebody_else_in_a_stages_place_stops_the_run_before_it_works(tmp_path: Path) -> None:
    seen: list[str] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="nothing was overwritten"):
        pipeline(tmp_path, seen).run("a", Architecture, Write())
    assert seen == []


def test_a_whole_copy_is_brought_back_beside_a_damaged_one(tmp_path: Path) -> None:
    seen: list[str] = []
    p = pipeline(tmp_path, seen)
    for text in ("one", "two"):
        p.run("a", Architecture, Write(text))
    (kept,) = (tmp_path / "replaced").iterdir()
    (kept / "text").write_text("damaged")
    for text in ("one", "two", "one", "two"):
        p.run("a", Architecture, Write(text))
    assert seen.count("a start") == 3  # one, two, and one anew
    assert (tmp_path / "a" / "text").read_text() == "two"


def test_nothing_is_brought_back_over_files_of_somebody_else(tmp_path: Path) -> None:
    p = pipeline(tmp_path, [])
    for text in ("one", "two"):
        p.run("a", Architecture, Write(text))
    (tmp_path / "a" / "artifact.json").unlink()
    with pytest.raises(ValueError, match="is no artifact of ours"):
        p.run("a", Architecture, Write("one"))
    assert (tmp_path / "a" / "text").read_text() == "two"


def test_a_stage_that_ends_leaves_the_scratch_files_of_its_other_configurations(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Long(Write):
        stop: bool = field(default=False, metadata={"identity": False})

        def __call__(self, *arguments: Any) -> Architecture:
            checkpoint = arguments[-1].scratch / "checkpoint"
            if checkpoint.is_file():
                resumed.append(self.text)
            write_text(checkpoint, self.text)
            if self.stop:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    resumed: list[str] = []
    p = pipeline(tmp_path, [])
    with pytest.raises(KeyboardInterrupt):
        p.run("a", Architecture, Long("days", stop=True))
    p.run("a", Architecture, Long("a minute"))
    p.run("a", Architecture, Long("days"))
    assert resumed == ["days"]
    assert not [f for f in (tmp_path / ".scratch").rglob("*") if f.is_file()]


def test_the_key_depends_on_stage_version_configuration_inputs_and_environment(tmp_path: Path) -> None:
    class Write2(Write):
        version = 2

    class OnGpu(Write):
        environment: ClassVar[dict[str, str]] = {"gpu": "a"}

    one, two = (Write(t)(Slot(tmp_path / t)) for t in ("x", "y"))
    keys = [
        stage_key(Write()),
        stage_key(Write("two")),
        stage_key(Write2()),
        stage_key(Write(), one),
        stage_key(Write(), two),
        stage_key(OnGpu(), one),
    ]
    assert len(set(keys)) == len(keys)
    assert stage_key(Write(threads=9)) == stage_key(Write())


def test_content_digest_covers_payload_only_and_the_sidecar_says_how_it_was_made(tmp_path: Path) -> None:
    a = pipeline(tmp_path / "a", []).run("x", Architecture, Write())
    time.sleep(0.01)
    b = pipeline(tmp_path / "b", []).run("x", Architecture, Write(threads=2))
    assert a.digest == b.digest
    assert a.sidecar["stage"] == "Write"
    assert a.sidecar["config"]["text"] == "one"
    assert "numpy" in a.sidecar["tools"]


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    Write()(Slot(tmp_path / "x"))
    with pytest.raises(ValueError, match="not 'weights'"):
        open_artifact(Weights, tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="not an artifact"):
        open_artifact(Weights, tmp_path)


def test_a_failing_stage_leaves_what_was_there(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Fail(Write):
        def __call__(self, *arguments: Any) -> Architecture:
            with arguments[-1].writing(Architecture) as folder:
                write_text(folder / "text", "half")
                raise RuntimeError("power")

    made = Write()(Slot(tmp_path / "a"))
    before = made.digest
    with pytest.raises(RuntimeError, match="power"):
        Fail()(Slot(tmp_path / "a"))
    assert Architecture(tmp_path / "a").digest == before
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_new_folder_replaces_only_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x") as folder:
        (folder / "one").write_text("1")
    with new_folder(tmp_path / "x") as folder:
        (folder / "two").write_text("2")
        assert (tmp_path / "x" / "one").exists()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["two"]


def test_what_a_kill_between_two_renames_moved_away_comes_back(tmp_path: Path) -> None:
    name = "x[1]"  # brackets are no pattern
    (tmp_path / f".{name}.1234abc_.old" / "was").mkdir(parents=True)
    (tmp_path / f".{name}.5678def_.tmp").mkdir()
    (tmp_path / f".{name}.mine.tmp").mkdir()  # no name of ours
    remove_leftovers(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".{name}.mine.tmp", name]


def test_what_killed_processes_left_is_cleared_and_what_another_is_writing_is_not(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, signal, sys\n"
        "from edgesmith.deploy.files import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "x")], check=False)
    (left,) = tmp_path.iterdir()
    with new_folder(tmp_path / "x") as first, new_folder(tmp_path / "x") as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_folder_is_held_until_it_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = files.fsync_tree

    def another_writes(folder: Path) -> None:
        monkeypatch.setattr(files, "fsync_tree", flush)
        with new_folder(tmp_path / "x") as other:
            (other / "theirs").touch()
        flush(folder)

    monkeypatch.setattr(files, "fsync_tree", another_writes)
    with new_folder(tmp_path / "x") as folder:
        (folder / "ours").touch()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["ours"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced_with_nothing_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """At once where system and file system can, else in two steps."""
    moved: list[Path] = []
    replace = os.replace

    def noted(source: Path, target: Path) -> None:
        moved.append(target)
        replace(source, target)

    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    monkeypatch.setattr(os, "replace", noted)
    if at_once:
        (tmp_path / "y").mkdir()
        if sys.platform != "linux":
            pytest.skip("folders are exchanged on Linux")
        assert files._exchange(tmp_path / "x", tmp_path / "y")
        (tmp_path / "y").rmdir()
    else:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with new_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "x"]
    assert (tmp_path / "link").is_symlink()
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new"]
    assert len(moved) == (0 if at_once else 2)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_replacement_that_fails_leaves_what_was_there_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    replace, count = os.replace, iter(range(1, 9))

    def busy(source: Path, target: Path) -> None:
        if next(count) == failing:
            raise OSError(errno.EBUSY, "busy")
        replace(source, target)

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OSError, match="busy"), new_folder(tmp_path / "x"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["old"]


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "photo.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="nothing was overwritten"):
        Write()(Slot(tmp_path / "train"))
    assert (tmp_path / "train" / "photo.png").read_bytes() == b"mine"


@pytest.mark.parametrize("sidecar", ["[]", "{}", '{"kind": [], "digest": "x", "key": "x"}', '{"kind": "architecture"}'])
def test_a_sidecar_of_the_wrong_shape_is_refused_by_file(tmp_path: Path, sidecar: str) -> None:
    Write()(Slot(tmp_path / "x"))
    (tmp_path / "x" / "artifact.json").write_text(sidecar)
    with pytest.raises(ValueError, match=r"artifact\.json"):
        open_artifact(Architecture, tmp_path / "x")


def test_a_torn_last_line_does_not_swallow_the_next_event(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "sta')
    log = events.EventLog(tmp_path, lambda event, **fields: None)
    log("run", recipe="x")
    log.close()
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[1])["event"] == "run"


def test_links_are_not_part_of_an_artifact(tmp_path: Path) -> None:
    made = Write()(Slot(tmp_path / "a"))
    (tmp_path / "a" / "link").symlink_to("/etc/hostname")
    with pytest.raises(ValueError, match="plain file"):
        Architecture(made.path).check()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, '{"a": nan}', "\ufeff{}"])
def test_text_that_is_not_json_is_refused_by_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_second_run_in_the_same_folder_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom edgesmith.pipeline.stage import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="another edgesmith"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        assert os.path.exists(tmp_path)


def test_events_go_to_lines_view_and_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "STEP_LINE_SECONDS", 60.0)
    seen: list[str] = []
    log = events.EventLog(tmp_path, lambda event, **fields: seen.append(event))
    log("start", stage="train")
    for step in range(3):
        log("step", stage="train", epoch=1, step=step + 1, steps=3, epochs=1, loss=1.0, lr=0.1)
    log("epoch", stage="train", epoch=1, epochs=1, loss=1.0, lr=0.1, val_miou=0.5, seconds=1.0)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert seen == ["start", "step", "step", "step", "epoch"]
    assert [line["event"] for line in lines] == ["start", "step", "epoch"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [e.value for e in board.Scalars("train/epoch/val_miou")] == [0.5]


def test_the_time_left_is_counted_from_steps_alone_where_jobs_come_between(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    view = events.PlainView(out, seconds=0.0)
    clock = itertools.count(time.monotonic() + 10, 10)
    monkeypatch.setattr(events.time, "monotonic", lambda: next(clock))

    def step(number: int) -> str:
        view("step", stage="search", epoch=1, step=number, steps=100, epochs=1)
        return out.getvalue().splitlines()[-1]

    step(50)
    view("job", stage="search", name="student", done=1, count=2)
    assert step(51) == "search: 51/100, time left unknown"
    assert step(52).endswith(" left")


def test_stages_are_hashable_data() -> None:
    assert {Write(), Write()} == {Write()}
    assert dataclasses.replace(Write(), text="x") != Write()
