"""`check` finds everything at once; any damage gives a clear error and never another kind of exception."""

from __future__ import annotations

import random
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesmith.pipeline.data.check import inspect
from edgesmith.pipeline.data.images import check_whole, decode_frame, decode_mask
from edgesmith.pipeline.data.spec import Data, open_split, splits

HW = (40, 56)


def camvid(root: Path, extension: str = "jpg") -> Data:
    """A small CamVid in the listed layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        lines = []
        for i in range(count):
            image, label = f"images/{split}/{split}{i}.{extension}", f"labels/{split}/{split}{i}.png"
            for path in (image, label):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
            smooth = cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), HW[::-1])
            cv2.imwrite(str(root / image), smooth)
            cv2.imwrite(str(root / label), rng.integers(0, 11, HW).astype(np.uint8))
            lines.append(f"{image}\t{label}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return Data("camvid", root=str(root))


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def test_a_sound_dataset_has_no_problems_and_its_shares(tmp_path: Path) -> None:
    report = inspect(camvid(tmp_path))
    assert report.problems == ()
    assert {k: s.frames for k, s in report.shares.items()} == {"train": 3, "val": 2, "test": 2}
    assert sum(report.shares["val"].shares) == pytest.approx(1)


def test_street_has_shares_and_no_problems() -> None:
    report = inspect(Data(frame_hw=(64, 96), train_frames=2, val_frames=1, test_frames=1))
    assert report.problems == ()
    assert sum(report.shares["train"].shares) > 0.5
    assert report.frames == {"train": 2, "val": 1, "test": 1}


def test_a_sample_of_the_street_and_masks_that_cannot_be_read_leave_frames_out(tmp_path: Path) -> None:
    report = inspect(Data(frame_hw=(64, 96), train_frames=40, val_frames=1, test_frames=1))
    assert (report.shares["train"].frames, report.frames["train"]) == (32, 40)
    data = camvid(tmp_path)
    (tmp_path / "labels/train/train2.png").write_bytes(b"not a png at all")
    report = inspect(data)
    assert (report.shares["train"].frames, report.frames["train"]) == (2, 3)


def test_every_kind_of_problem_is_reported_at_once(tmp_path: Path) -> None:
    data = camvid(tmp_path)
    (tmp_path / "images/train/train0.jpg").unlink()
    cut(tmp_path / "images/train/train1.jpg", 0.7)
    cut(tmp_path / "labels/train/train1.png", 0.9)
    (tmp_path / "labels/train/train2.png").write_bytes(b"not a png at all")
    label = cv2.imread(str(tmp_path / "labels/val/val0.png"), cv2.IMREAD_UNCHANGED)
    label[:2, :3] = 77
    label[5, 5] = 200
    cv2.imwrite(str(tmp_path / "labels/val/val0.png"), label)
    cv2.imwrite(str(tmp_path / "labels/val/val1.png"), np.zeros((HW[0], HW[1] + 2), np.uint8))
    shutil.copy(tmp_path / "images/val/val0.jpg", tmp_path / "images/test/test1.jpg")
    with (tmp_path / "test.txt").open("a") as f:
        f.write("images/test/test0.jpg\tlabels/test/test0.png\nno tab here\n../x\t../y\n")

    found = {(p.file.removeprefix(f"{tmp_path}/"), p.split, p.what) for p in inspect(data).problems}
    size = (tmp_path / "images/train/train1.jpg").stat().st_size
    mask = (tmp_path / "labels/train/train1.png").stat().st_size
    assert found == {
        ("images/train/train0.jpg", "train", "is not there"),
        ("images/train/train1.jpg", "train", f"truncated JPEG: it ends after {size} bytes"),
        ("labels/train/train1.png", "train", f"truncated PNG: it ends after {mask} bytes"),
        ("labels/train/train2.png", "train", "a mask must be a PNG"),
        ("labels/val/val0.png", "val", "holds values that stand for no class: 77 in 6 pixels, 200 in 1 pixels"),
        ("labels/val/val1.png", "val", "is 40x58, its frame 40x56 (height x width)"),
        ("images/test/test1.jpg", "test", "is also in split val, as images/val/val0.jpg"),
        ("test.txt", "test", "'images/test/test0.jpg' is listed twice"),
        ("test.txt:4", "test", "'no tab here' is not image<TAB>mask"),
        ("test.txt", "test", "'../x' is not a path below the root"),
        ("test.txt", "test", "'../y' is not a path below the root"),
    }
    assert all(p.fix for p in inspect(data).problems)


def test_empty_splits_are_reported(tmp_path: Path) -> None:
    data = camvid(tmp_path)
    (tmp_path / "val.txt").write_text("\n\n")
    (tmp_path / "test.txt").unlink()
    assert [(p.split, p.what) for p in inspect(data).problems] == [
        ("val", "lists nothing"),
        ("test", "the list of this split is not there"),
    ]


@pytest.mark.parametrize("extension", ["jpg", "png"])
@pytest.mark.parametrize("progressive", [False, True])
def test_an_image_that_ends_anywhere_early_is_told_from_a_whole_one(extension: str, progressive: bool) -> None:
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), HW[::-1])
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if progressive and extension == "jpg" else []
    whole = cv2.imencode(f".{extension}", image, flags)[1].tobytes()
    check_whole(whole, Path("x"))
    check_whole(whole + b"\0\0trailing", Path("x"))
    for end in range(2 if extension == "jpg" else 8, len(whole) - 1):
        with pytest.raises(ValueError, match="x: truncated"):
            check_whole(whole[:end], Path("x"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"IEND", b"")],
        [(b"IHDR", b""), (b"IEND", b"")],
        [(b"IHDR", struct.pack(">IIB", 8, 8, 8)), (b"IEND", b"")],
        [(b"tEXt", b"a\0b"), (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"IEND", b"")],
    ],
)
def test_a_png_whose_header_is_missing_or_short_is_refused(chunks: list[tuple[bytes, bytes]]) -> None:
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)
    with pytest.raises(ValueError, match="x: damaged PNG: it has no header"):
        decode_mask(data, Path("x"), "index")
    with pytest.raises(ValueError, match="x: damaged PNG: it has no header"):
        decode_frame(data, Path("x"))


def test_the_end_marker_of_an_embedded_thumbnail_does_not_count() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    inner = cv2.imencode(".jpg", image)[1].tobytes()
    outer = cv2.imencode(".jpg", image)[1].tobytes()
    segment = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = outer[:2] + segment + outer[2:]
    check_whole(whole, Path("x"))
    with pytest.raises(ValueError, match="truncated JPEG"):
        check_whole(whole[: 2 + len(segment) + 200], Path("x"))


def damage(root: Path, rng: random.Random) -> None:
    """One to four random kinds of damage; a harness for the tests below."""
    for _ in range(rng.randint(1, 4)):
        files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "set.yaml")
        path = rng.choice(files)
        data = path.read_bytes()
        kind = rng.randrange(8)
        if kind == 0:
            path.unlink()
        elif kind == 1:
            path.write_bytes(data[: rng.randrange(len(data) + 1)])
        elif kind == 2 and data:
            at = rng.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        elif kind == 3:
            path.write_bytes(rng.randbytes(rng.randrange(200)))
        elif kind == 4 and path.suffix == ".png":
            shape = (rng.randint(1, 60), rng.randint(1, 60), *rng.choice([(), (3,), (4,)]))
            cv2.imwrite(str(path), np.full(shape, rng.randrange(256), rng.choice([np.uint8, np.uint16])))
        elif kind == 5:
            path.unlink()
            path.mkdir()
        elif kind == 6:
            path.unlink()
            path.symlink_to(rng.choice([path.name, "/etc/passwd", "../../..", files[0]]))
        else:
            lines = data.split(b"\n")
            rng.shuffle(lines)
            path.write_bytes(b"\n".join(lines[: rng.randint(0, len(lines))]))


def fuzz(tmp_path: Path, seeds: range) -> None:
    sound = tmp_path / "sound"
    for seed in seeds:
        rng = random.Random(seed)
        root = tmp_path / f"damaged{seed}"
        if not sound.exists():
            camvid(sound, "jpg")
            patterns = "".join(
                f"  {s}: {{images: 'images/{s}/{{stem}}.jpg', masks: 'labels/{s}/{{stem}}.png'}}\n" for s in ("train", "val")
            )
            classes = "".join(f"- {{name: c{i}, colour: [{i}, 0, 0]}}\n" for i in range(11))
            (sound / "set.yaml").write_text(f"name: set\nclasses:\n{classes}splits:\n{patterns}")
        shutil.copytree(sound, root, symlinks=True)
        damage(root, rng)
        for data in (Data("camvid", root=str(root)), Data(str(root / "set.yaml"))):
            bad = _unreadable(data)
            try:
                problems = inspect(data).problems
            except (ValueError, OSError) as e:
                problems = ()
                if str(root) not in str(e):
                    pytest.fail(f"seed {seed}: {e}")
            if bad and not problems and (root / "train.txt").exists():
                pytest.fail(f"seed {seed}: check is content, but reading says {bad}")
        shutil.rmtree(root)


def _unreadable(data: Data) -> str:
    """The first error of plain reading, which may only be a ValueError or an OSError."""
    try:
        for split in splits(data):
            for sample in open_split(data, split):
                assert sample.frame.shape[:2] == sample.label.shape
    except (ValueError, OSError) as e:
        return str(e)
    return ""


def test_damaged_folders_give_clear_errors(tmp_path: Path) -> None:
    fuzz(tmp_path, range(50))


@pytest.mark.slow
def test_many_damaged_folders_give_clear_errors(tmp_path: Path) -> None:
    fuzz(tmp_path, range(50, 500))
