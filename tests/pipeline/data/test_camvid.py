"""CamVid in its three layouts, built small in a temporary folder; the numbers of the real one where it is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesmith.pipeline.data import camvid
from edgesmith.pipeline.data.camvid import CAMVID, CLASSES_32
from edgesmith.pipeline.data.dataset import VOID
from edgesmith.pipeline.data.show import class_shares

NAMES = {"train": ["0001TP_1", "0001TP_2"], "val": ["0016E5_1"], "test": ["Seq05VD_1"]}
HW = (24, 32)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*HW, 3), np.uint8)


def label(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 12, HW).astype(np.uint8)
    return np.where(values == 11, VOID, values).astype(np.uint8)


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])


def listed(root: Path) -> None:
    for split, names in NAMES.items():
        for i, name in enumerate(names):
            write(root / f"images/{split}/{name}.png", frame(i))
            write(root / f"labels/{split}/{name}.png", label(i))
        lines = [f"images/{split}/{n}.png\tlabels/{split}/{n}.png\n" for n in names]
        (root / f"{split}.txt").write_text("".join(lines))


def segnet(root: Path) -> None:
    for split, names in NAMES.items():
        for i, name in enumerate(names):
            write(root / split / f"{name}.png", frame(i))
            write(root / f"{split}annot" / f"{name}.png", np.where(label(i) == VOID, 11, label(i)).astype(np.uint8))


def official(root: Path) -> None:
    colours = {group: rgb for rgb, group in reversed(CLASSES_32.values())}
    lut = np.zeros((256, 3), np.uint8)
    for i, name in enumerate(CAMVID.names):
        lut[i] = colours[name]
    for split, names in NAMES.items():
        for i, name in enumerate(names):
            write(root / "701_StillsRaw_full" / f"{name}.png", frame(i))
            write(root / "LabeledApproved_full" / f"{name}_L.png", lut[label(i)])
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


@pytest.mark.parametrize("layout", [listed, segnet, official])
def test_every_layout_gives_the_same_frames_and_labels(tmp_path: Path, layout) -> None:  # type: ignore[no-untyped-def]
    layout(tmp_path)
    dataset = camvid.find(tmp_path)
    for split, names in NAMES.items():
        opened = dataset.open(split)
        assert len(opened) == len(names)
        for i, (name, sample) in enumerate(zip(names, opened, strict=True)):
            assert sample.name == name
            assert np.array_equal(sample.frame, frame(i))
            assert np.array_equal(sample.label, label(i))
            assert sample.frame.flags.c_contiguous


def test_the_32_classes_are_the_published_ones() -> None:
    assert len(CLASSES_32) == 32
    assert len({rgb for rgb, _ in CLASSES_32.values()}) == 32
    assert {group for _, group in CLASSES_32.values()} == {*CAMVID.names, None}
    colours = {c for rgb, _ in CLASSES_32.values() for c in rgb}
    assert colours == {0, 64, 128, 192}
    groups = {name: group for name, (_, group) in CLASSES_32.items()}
    assert (groups["RoadShoulder"], groups["TrafficCone"], groups["LaneMkgsNonDriv"]) == ("Sidewalk", "Pole", "Road")


def test_a_colour_outside_the_32_is_an_error_that_names_file_and_colour(tmp_path: Path) -> None:
    official(tmp_path)
    path = tmp_path / "LabeledApproved_full/0016E5_1_L.png"
    image = cv2.imread(str(path))
    image[3, 4:7] = (3, 2, 1)
    write(path, image[..., ::-1])
    with pytest.raises(ValueError, match=r"0016E5_1_L\.png: holds colours .*: \(1, 2, 3\) in 3 pixels"):
        camvid.find(tmp_path).open("val")[0]


def test_names_in_the_official_lists_may_stand_as_in_the_lists_that_go_around(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "train.txt").write_text("0001TP_1.png\r\n701_StillsRaw_full/0001TP_2.png\tx\n\n")
    (tmp_path / "test.txt").write_text("Seq05VD_1_L.png")
    dataset = camvid.find(tmp_path)
    assert [s.name for s in dataset.open("train")] == NAMES["train"]
    assert [s.name for s in dataset.open("test")] == NAMES["test"]


def test_the_missing_list_of_the_official_layout_is_asked_for(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "val.txt").unlink()
    dataset = camvid.find(tmp_path)
    assert len(dataset.open("train")) == 2
    with pytest.raises(ValueError, match=r"val\.txt .*write val\.txt with one frame name a line"):
        dataset.open("val")


def test_a_folder_that_is_not_camvid_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Looked for train\.txt.* trainannot/ .*LabeledApproved_full"):
        camvid.find(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        camvid.find(tmp_path / "absent")


def test_list_entries_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    listed(tmp_path / "root")
    shutil.copytree(tmp_path / "root/images", tmp_path / "elsewhere")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    mask = "labels/val/0016E5_1.png"
    for bad in ("../elsewhere/val/0016E5_1.png", str(tmp_path / "elsewhere/val/0016E5_1.png"), "link/val/0016E5_1.png"):
        (tmp_path / "root/val.txt").write_text(f"{bad}\t{mask}\n")
        with pytest.raises(ValueError, match=r"is not a path below the root|a link that leads out of the root"):
            camvid.find(tmp_path / "root").open("val")


def test_the_digest_follows_content_and_not_place(tmp_path: Path) -> None:
    listed(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a, b = (camvid.find(tmp_path / n).open("train") for n in "ab")
    assert a.digest == b.digest
    write(tmp_path / "b/labels/train/0001TP_1.png", label(7))
    assert camvid.find(tmp_path / "b").open("train").digest != a.digest
    assert b.digest == a.digest  # computed once, of what was there
    (tmp_path / "a/train.txt").write_text("".join(reversed((tmp_path / "a/train.txt").read_text().splitlines(True))))
    assert camvid.find(tmp_path / "a").open("train").digest != a.digest


def test_the_real_shares_are_those_measured_at_the_source(shared: Path) -> None:
    root = shared / "data/camvid"
    measured = json.loads((root / "stats.json").read_text())
    for split in ("train", "val", "test"):
        got = class_shares(camvid.find(root).open(split)).to_json()
        want = measured[split]
        assert got["frames_with_class"] == want["frames_with_class"]
        assert (got["frames"], got["pixels"]) == (want["frames"], want["pixels"])
        assert got["share"] == pytest.approx(want["share"], abs=1e-12)
        assert got["void_share"] == pytest.approx(want["void_share"], abs=1e-12)
