"""Damaged input of every kind: a clear error, exit code 2, no traceback, nothing overwritten."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesmith.pipeline import cli

RECIPE = """\
about: A valid recipe.
data: {dataset: street, frame_hw: [96, 128], train_frames: 16, val_frames: 2, test_frames: 3}
derive:
  arch: "zoo:squeezenas-lat-small"
train:
  epochs: 2
  batch: 4
  loss: ohem
  optim:
    lr: 0.02
    milestones: [0.5, 0.75]
  augment:
    crop_hw: [64, 96]
export:
  frame_hw: [96, 128]
build:
  backends: [onnxruntime]
validate:
  split: test
"""


SEARCHING = RECIPE.replace(
    """\
derive:
  arch: "zoo:squeezenas-lat-small"
""",
    """\
search:
  space: small
  resource: macs
  temperature: [5.0, 1.0]
  removal: 0.005
  target: 0.02
  samples: 10
derive:
  budget: 0.03
""",
)


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["edgesmith", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refuse(capsys: pytest.CaptureFixture[str], code: int, *named: str) -> None:
    said = capsys.readouterr().err
    assert code == 2, said
    assert "Traceback" not in said
    assert said.startswith(("edgesmith: ", "Usage: ", "Error: ")), said
    for text in named:
        assert text in said


# Each mutation makes the valid recipe an invalid one, whatever the dice say.
def _unknown_key(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if line.startswith("  ") and ":" in line and "[" not in line])
    key = lines[at].split(":")[0]
    lines[at] = lines[at].replace(key, key + rng.choice("xyz_"), 1)
    return "\n".join(lines)


def _wrong_type(text: str, rng: random.Random) -> str:
    fields = ["epochs: 2", "batch: 4", "lr: 0.02", "crop_hw: [64, 96]"]
    if "search:" in text:
        fields += ["temperature: [5.0, 1.0]", "samples: 10", "resource: macs"]
    field = rng.choice(fields)
    bad = rng.choice(["[]", "{}", "two", "'3'", "true", "1.5.2", "[1, 2, 3]", "{a: 1}", ".nan", ".inf", "2026-01-01"])
    return text.replace(field, f"{field.split(':')[0]}: {bad}")


IMPOSSIBLE = [
    ("epochs: 2", "epochs: 0"),
    ("epochs: 2", "epochs: -5"),
    ("batch: 4", "batch: 0"),
    ("batch: 4", "batch: 400"),
    ("lr: 0.02", "lr: -0.1"),
    ("lr: 0.02", "lr: 1e999"),
    ("loss: ohem", "loss: hinge"),
    ("[0.5, 0.75]", "[0.75, 0.5]"),
    ("[64, 96]", "[0, 96]"),
    ("frame_hw: [96, 128]\nbuild", "frame_hw: [9, 128]\nbuild"),
    ("[onnxruntime]", "[onnx]"),
    ("[onnxruntime]", "[]"),
    ("split: test", "split: tset"),
    ("dataset: street", "dataset: steet"),
    ("zoo:squeezenas-lat-small", "zoo:squeezenas-lat-smal"),
    ("train_frames: 16", "train_frames: 0"),
    ("space: small", "space: tiny"),
    ("resource: macs", "resource: watts"),
    ("resource: macs", "resource: latency"),
    ("resource: macs", "resource: macs\n  table: t.json"),
    ("resource: macs", "resource: latency\n  table: no-such-table.json"),
    ("[5.0, 1.0]", "[1.0, 5.0]"),
    ("removal: 0.005", "removal: 0.5"),
    ("target: 0.02", "target: 0.0001"),
    ("budget: 0.03", "budget: 0.0001"),
    ("budget: 0.03", "arch: zoo:squeezenas-lat-small"),
    ("samples: 10", "samples: 0"),
    ("samples: 10", "batch: 400"),
]
"""What makes a valid recipe an impossible one; each is for the recipes that hold its left side."""


def _impossible_value(text: str, rng: random.Random) -> str:
    return text.replace(*rng.choice([pair for pair in IMPOSSIBLE if pair[0] in text]))


def _missing_section(text: str, rng: random.Random) -> str:
    choices = ["about: A valid recipe.\n", '  arch: "zoo:squeezenas-lat-small"\n', "export:\n  frame_hw: [96, 128]\n"]
    return text.replace(rng.choice([c for c in choices if c in text]), "")


def _not_yaml(text: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(text) - 1)
    bad = rng.choice(["\t\t: [", "}{", "\x00", "&a *a", "!!python/object:os.system x", "- - -\n:", "%TAG", "`"])
    return text[:at] + "\n" + bad + "\n" + text[at:]


def _duplicate_key(text: str, rng: random.Random) -> str:
    return text + rng.choice(["train: {}\n", "about: again\n", "data: {dataset: street}\n"])


MUTATIONS: list[Callable[[str, random.Random], str]] = [
    *(_unknown_key, _wrong_type, _impossible_value, _missing_section, _not_yaml, _duplicate_key)
]


def fuzz_recipes(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    before = snapshot(out)
    for seed in range(count):
        rng = random.Random(seed)
        path = tmp_path / "bad.yaml"
        text = rng.choice([RECIPE, SEARCHING])
        path.write_text(MUTATIONS[seed % len(MUTATIONS)](text, rng))
        refuse(capsys, run_cli(monkeypatch, "run", path, "--out", out))
        assert snapshot(out) == before


def test_fuzzed_recipes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_recipes(50, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_500_fuzzed_recipes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_recipes(500, tmp_path, monkeypatch, capsys)


def test_a_typo_is_answered_with_file_line_key_and_the_nearest_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "typo.yaml"
    path.write_text(RECIPE.replace("epochs: 2", "epoch: 2"))
    refuse(capsys, run_cli(monkeypatch, "run", path), "typo.yaml:6", "train.epoch", "did you mean train.epochs?")


@pytest.mark.parametrize("override", ["train.epoch=3", "train.epochs=many", "train", "=3", "trian.epochs=1", "train.epochs=0"])
def test_wrong_overrides_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(RECIPE)
    refuse(capsys, run_cli(monkeypatch, "run", path, "--set", override), "--set")


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one payload file of an artifact; returns its name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "artifact.json")
    target = rng.choice(files)
    data = bytearray(target.read_bytes())
    how = rng.choice(["flip", "truncate", "empty", "grow", "remove"])
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del data[rng.randrange(len(data)) :]
    elif how == "empty":
        data.clear()
    elif how == "grow":
        data += b"\n"
    if how == "remove":
        target.unlink()
    else:
        target.write_bytes(bytes(data))
    return target.relative_to(folder).as_posix()


def fuzz_artifacts(
    count: int, runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run, searching_run = runs
    verbs: list[tuple[str, Callable[[Path], list[object]]]] = [
        ("train", lambda d: ["export", d, "--out", tmp_path / "out"]),
        ("train", lambda d: ["show", d]),
        ("onnx", lambda d: ["build", d, "--out", tmp_path / "out"]),
        ("bundle", lambda d: ["verify", d]),
        ("bundle", lambda d: ["validate", d, "--data", "street", "--limit", "1"]),
        ("validation", lambda d: ["show", d]),
        ("search", lambda d: ["show", d]),
    ]
    for seed in range(count):
        rng = random.Random(seed)
        name, verb = verbs[seed % len(verbs)]
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree((searching_run if name == "search" else tiny_run) / name, copy)
        file = damage(copy, rng)
        before = snapshot(copy)
        refuse(capsys, run_cli(monkeypatch, *verb(copy)), file)
        assert snapshot(copy) == before
        assert not (tmp_path / "out").exists()


def test_damaged_artifacts_are_refused_by_file(
    tiny_run: Path, searching_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_artifacts(49, (tiny_run, searching_run), tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_500_damaged_artifacts_are_refused_by_file(
    tiny_run: Path, searching_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_artifacts(500, (tiny_run, searching_run), tmp_path, monkeypatch, capsys)


def small_camvid(root: Path) -> None:
    """A dataset in the 11-class layout, two frames a split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        lines = []
        for i in range(2):
            frame, label = f"images/{split}/{i}.jpg", f"labels/{split}/{i}.png"
            for name, shape, top in ((frame, (48, 64, 3), 256), (label, (48, 64), 11)):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / name), rng.integers(0, top, shape, np.uint8))
            lines.append(f"{frame}\t{label}")
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")


def damage_dataset(root: Path, rng: random.Random) -> str:
    kind = rng.choice(["truncate", "missing", "label", "size", "list", "garbage"])
    image = rng.choice(sorted(root.glob("images/*/*.jpg")))
    mask = rng.choice(sorted(root.glob("labels/*/*.png")))
    target = rng.choice([image, mask])
    if kind == "truncate":
        target.write_bytes(target.read_bytes()[: rng.randrange(1, target.stat().st_size - 1)])
    elif kind == "missing":
        target.unlink()
    elif kind == "garbage":
        target.write_bytes(rng.randbytes(rng.randrange(200)))
    elif kind == "label":
        target = mask
        cv2.imwrite(str(mask), np.full((48, 64), rng.randrange(12, 250), np.uint8))
    elif kind == "size":
        target = mask
        cv2.imwrite(str(mask), np.zeros((20, 30), np.uint8))
    else:
        target = rng.choice(sorted(root.glob("*.txt")))
        target.write_text(rng.choice(["no tab here\n", "../../etc/passwd\t../../etc/passwd\n", "a\tb\tc\n"]))
    return target.name


def fuzz_datasets(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(count):
        root = tmp_path / "camvid"
        shutil.rmtree(root, ignore_errors=True)
        small_camvid(root)
        rng = random.Random(seed)
        file = damage_dataset(root, rng)
        before = snapshot(root)
        code = run_cli(monkeypatch, "data", "check", f"camvid:{root}")
        said = capsys.readouterr()
        assert code == 2
        assert file in said.out + said.err
        assert "Traceback" not in said.err
        assert snapshot(root) == before


def test_damaged_datasets_are_reported_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_datasets(50, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_500_damaged_datasets_are_reported_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz_datasets(500, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("verb", ["build", "run"])
def test_a_folder_that_is_not_ours_is_never_replaced(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    holiday = tmp_path / "holiday"
    (holiday / "train").mkdir(parents=True)
    (holiday / "train" / "photo.jpg").write_bytes(b"dear")
    (holiday / "recipe.yaml").write_text(RECIPE)
    before = snapshot(holiday)
    code = run_cli(monkeypatch, verb, tiny_run / "onnx" if verb == "build" else holiday / "recipe.yaml", "--out", holiday)
    refuse(capsys, code, "nothing was overwritten")
    assert snapshot(holiday) == before
