"""Datasets described by a YAML file: pairing, codings, containment, and real samples of four datasets."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesmith.pipeline.data import folder
from edgesmith.pipeline.data.dataset import VOID
from edgesmith.pipeline.data.show import class_shares
from edgesmith.pipeline.recipe import Recipe
from edgesmith.pipeline.recipes import FOLDER as RECIPES
from edgesmith.pipeline.yamlfile import parse

CITYSCAPES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
OTHER_IDS = tuple(i for i in range(34) if i not in LABEL_IDS)


def describe(path: Path, root: Path, splits: str, more: str = "", values: tuple[int, ...] | None = None) -> Path:
    """Write a description with the 19 Cityscapes classes."""
    classes = [
        f"- {{name: {name}, colour: {list(rgb)}{f', values: [{values[i]}]' if values else ''}}}\n"
        for i, (name, rgb) in enumerate(CITYSCAPES.items())
    ]
    path.write_text(f"name: test\nroot: {root}\nclasses:\n{''.join(classes)}{more}\nsplits:\n{splits}")
    return path


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])


def small(root: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """Two frames with index masks and their description."""
    for i, name in enumerate(names):
        rng = np.random.default_rng(i)
        write(root / f"images/{name}.png", rng.integers(0, 256, (8, 12, 3), np.uint8))
        write(root / f"masks/{name}_m.png", rng.integers(0, 3, (8, 12)).astype(np.uint8))
    path = root / "small.yaml"
    path.write_text(
        "name: small\nclasses:\n- {name: one, colour: [1, 1, 1]}\n- {name: two, colour: [2, 2, 2]}\n"
        "- {name: three, colour: [3, 3, 3]}\nsplits:\n  all: {images: 'images/{stem}.png', masks: 'masks/{stem}_m.png'}\n"
    )
    return path


def palette_png(index: np.ndarray, palette: np.ndarray, depth: int = 8) -> bytes:
    """A palette PNG, which OpenCV cannot write: unfiltered rows, `depth` bits a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = index.shape
    bits = np.unpackbits(index[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"PLTE", palette.tobytes()), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def test_images_and_masks_are_paired_by_the_names_in_the_patterns(tmp_path: Path) -> None:
    path = small(tmp_path)
    write(tmp_path / "masks/unrelated.png", np.zeros((8, 12), np.uint8))
    split = folder.find(path).open("all")
    assert [s.name for s in split] == ["a", "b"]
    assert np.array_equal(split[1].label, cv2.imread(str(tmp_path / "masks/b_m.png"), cv2.IMREAD_UNCHANGED))


def test_an_image_without_its_mask_is_named(tmp_path: Path) -> None:
    path = small(tmp_path)
    (tmp_path / "masks/b_m.png").unlink()
    with pytest.raises(ValueError, match=r"masks/b_m\.png \(all\): is listed, but is not there"):
        folder.find(path).open("all")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_masks_keep_their_index_even_where_the_palette_repeats_a_colour(tmp_path: Path, depth: int) -> None:
    path = small(tmp_path)
    index = (np.arange(96).reshape(8, 12) % min(3, 2**depth)).astype(np.uint8)
    same = np.full((2**depth, 3), 77, np.uint8)
    (tmp_path / "masks/a_m.png").write_bytes(palette_png(index, same, depth))
    assert np.array_equal(folder.find(path).open("all")[0].label, index)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((8, 12), 9, np.uint8), r"holds values that stand for no class: 9 in 96 pixels"),
        (np.zeros((8, 12), np.uint16), r"16-bit"),
        (np.zeros((8, 12, 3), np.uint8), r"has colours, but the masks are said to hold class values"),
        (np.zeros((8, 13), np.uint8), r"the mask is 8x13, its frame 8x12 \(height x width\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_name(tmp_path: Path, image: np.ndarray, expected: str) -> None:
    path = small(tmp_path)
    write(tmp_path / "masks/a_m.png", image)
    with pytest.raises(ValueError, match=rf"a_m\.png: .*{expected}"):
        folder.find(path).open("all")[0]


def test_colour_masks_map_by_class_colour_and_further_colours(tmp_path: Path) -> None:
    path = small(tmp_path)
    text = path.read_text().replace("colour: [3, 3, 3]", "colour: [3, 3, 3], colours: [[9, 8, 7]]")
    path.write_text(text.replace("splits:", "masks: colour\nignore_colours: [[0, 0, 0]]\nsplits:"))
    colours = np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3], [9, 8, 7], [0, 0, 0]], np.uint8)
    for name in "ab":
        write(tmp_path / f"masks/{name}_m.png", np.broadcast_to(colours[:, None], (5, 12, 3)))
        write(tmp_path / f"images/{name}.png", np.zeros((5, 12, 3), np.uint8))
    assert folder.find(path).open("all")[0].label[:, 0].tolist() == [0, 1, 2, 2, VOID]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("images/{stem}.png", "images/*.png", "splits.all.images = 'images/*.png': write {stem} or another {name}"),
        ("images/{stem}.png", "../{stem}.png", "below root"),
        ("images/{stem}.png", "/images/{stem}.png", "below root"),
        ("images/{stem}.png", "images/x.png", "needs at least one {name}"),
        ("masks/{stem}_m.png", "masks/{name}_m.png", "{name}, {stem} stands in only one of them"),
        (", masks: 'masks/{stem}_m.png'", "", "missing masks; images and masks go together"),
        ("name: two", "name: one", "small.yaml:2: classes = [..., ..., ...]: names must differ; twice: one"),
        ("[2, 2, 2]", "[2, 2, 256]", "small.yaml:4: classes[1].colour = [2, 2, 256]: needs red, green, blue"),
        ("[2, 2, 2]", "[2, 2, 2], values: [0]", "0 in a mask would mean both one and two"),
        ("splits:", "ignore_index: [2, 300]\nsplits:", "ignore_index = [2, 300]: needs numbers from 0 to 255"),
        ("splits:", "ignored: 3\nsplits:", "unknown key; did you mean ignore_index?"),
        ("splits:", "root: nowhere\nsplits:", "nowhere is not a folder"),
        ("splits:", "root: ~nouser/x\nsplits:", "small.yaml: root: ~nouser/x: there is no home folder of that user"),
        ("splits:", "masks: colour\nignore_index: 0\nsplits:", "small.yaml:7: ignore_index = 0: the masks hold colours"),
    ],
)
def test_impossible_descriptions_are_refused_with_their_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path = small(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        folder.find(path).open("all")
    assert expected in str(caught.value)


def test_the_digest_follows_the_palette_which_ends_up_in_the_weights(tmp_path: Path) -> None:
    path = small(tmp_path)
    before = folder.find(path).open("all").digest
    path.write_text(path.read_text().replace("[2, 2, 2]", "[2, 2, 9]"))
    assert folder.find(path).open("all").digest != before


def test_the_descriptions_in_the_documentation_are_valid() -> None:
    text = (Path(__file__).parents[3] / "docs/data.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    recipes = [block for block in blocks if "\nabout:" in block]
    described = [parse(block, "docs/data.md", folder.Folder) for block in blocks if block not in recipes]
    assert [d.name for d in described] == ["cityscapes", "cityscapes", "cityscapes-coarse", "bdd100k", "bdd100k", "voc"]
    (recipe,) = (parse(block, "docs/data.md", Recipe) for block in recipes)
    assert recipe.data.dataset == "cityscapes.yaml"
    assert recipe.train.augment.scale == (0.25, 1.0)  # round the network's half of the frame's size
    named = {n for file in RECIPES.glob("*.yaml") for n in re.findall(r"dataset: ([\w-]+)\.yaml", file.read_text())}
    assert "cityscapes-coarse" in named
    assert named <= {d.name for d in described if {"train", "val"} <= set(d.splits)}, "a recipe needs a description"


def test_links_that_lead_out_of_the_root_are_refused(tmp_path: Path) -> None:
    path = small(tmp_path / "root")
    shutil.move(tmp_path / "root/images/a.png", tmp_path / "a.png")
    (tmp_path / "root/images/a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"'images/a\.png' is a link that leads out of the root"):
        folder.find(path).open("all")
    (tmp_path / "root/images/a.png").unlink()
    (tmp_path / "root/images/a.png").symlink_to("b.png")
    assert len(folder.find(path).open("all")) == 2


def test_names_that_are_not_utf8_are_told_in_a_form_that_can_be_printed(tmp_path: Path) -> None:
    path = small(tmp_path)
    try:
        shutil.copy(tmp_path / "images/a.png", os.fsdecode(os.fsencode(tmp_path / "images") + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    with pytest.raises(ValueError, match=r"udcff\.png' is not a UTF-8 name") as caught:
        folder.find(path).open("all")
    assert str(caught.value).encode()


def test_damaged_descriptions_give_clear_errors(tmp_path: Path) -> None:
    path = small(tmp_path)
    text = path.read_text() + "  more: {list: pairs.txt}\nignore_index: [255, 254]\nroot: .\n"
    scraps = ["{", "}", "[", "]", ": ", "'", "/", "..", "*", "\t", "\\", "é", "\x00", "{stem}", "-1", "9" * 30, "null", "."]
    for seed in range(50):
        rng = random.Random(seed)
        damaged = text
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            damaged = damaged[:at] + rng.choice([*scraps, ""]) + damaged[at + rng.randint(0, 6) :]
        path.write_text(damaged)
        try:
            for sample in folder.find(path).open("all"):
                assert sample.frame.shape == (8, 12, 3)
        except (ValueError, OSError) as e:
            if not str(e).strip():
                pytest.fail(f"seed {seed}: an error without a message")


def test_a_list_of_pairs_and_a_list_of_stems_give_their_order(tmp_path: Path) -> None:
    path = small(tmp_path)
    (tmp_path / "stems.txt").write_text("b\na\n")
    (tmp_path / "pairs.txt").write_text("images/b.png\tmasks/b_m.png\n")
    (tmp_path / "bad.txt").write_text("images/b.png masks/b_m.png\n../x\t/etc/passwd\nimages/b.png\tmasks/b_m.png\n" * 2)
    head, tail = path.read_text().split("  all: {")
    path.write_text(f"{head}  all: {{list: stems.txt, {tail}  pairs: {{list: pairs.txt}}\n  bad: {{list: bad.txt}}\n")
    dataset = folder.find(path)
    assert [s.name for s in dataset.open("all")] == ["b", "a"]
    assert [s.name for s in dataset.open("pairs")] == ["b"]
    what = [p.what for p in dataset.listings["bad"].problems]
    assert sum("is not image<TAB>mask" in w for w in what) == 2
    assert sum("is not a path below the root" in w for w in what) == 4
    assert sum("is listed twice" in w for w in what) == 1
    with pytest.raises(ValueError, match="has no split 'test'; it has all, pairs, bad"):
        dataset.open("test")


def test_cityscapes_samples_through_train_ids_label_ids_and_colours_agree(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/format_samples/cityscapes"
    line = (
        "  val: {{images: 'leftImg8bit/val/{{city}}/{{stem}}_leftImg8bit.png', "
        "masks: 'gtFine/val/{{city}}/{{stem}}_gtFine_{}.png'}}\n"
    )
    ids = describe(tmp_path / "train_ids.yaml", root, line.format("labelTrainIds"))
    raw = describe(tmp_path / "ids.yaml", root, line.format("labelIds"), f"ignore_index: {list(OTHER_IDS)}", LABEL_IDS)
    colour = describe(tmp_path / "colour.yaml", root, line.format("color"), "masks: colour\nignore_colours: [[0, 0, 0]]")
    splits = [folder.find(p).open("val") for p in (ids, raw, colour)]
    assert [len(s) for s in splits] == [3, 3, 3]
    for i in range(3):
        name, frame, label = splits[0][i]
        assert frame.shape == (1024, 2048, 3)
        assert all(np.array_equal(label, s[i].label) for s in splits[1:]), name
    assert len({s.digest for s in splits}) == 3


def test_bdd100k_samples_masks_and_colormaps_agree(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/format_samples/bdd100k"
    line = "  {0}: {{images: 'images/10k/{0}/{{stem}}.jpg', masks: 'labels/sem_seg/{1}/{0}/{{stem}}.png'}}\n"
    index = describe(tmp_path / "i.yaml", root, line.format("train", "masks") + line.format("val", "masks"))
    colour = describe(tmp_path / "c.yaml", root, line.format("val", "colormaps"), "masks: colour\nignore_colours: [[0, 0, 0]]")
    assert [len(folder.find(index).open(s)) for s in ("train", "val")] == [16, 8]
    for a, b in zip(folder.find(index).open("val"), folder.find(colour).open("val"), strict=True):
        assert a.frame.shape == (720, 1280, 3)
        assert np.array_equal(a.label, b.label)


def test_voc_samples_keep_the_palette_index(shared: Path, tmp_path: Path) -> None:
    root = shared / "data/format_samples/voc2012"
    classes = "".join(f"- {{name: c{i}, colour: [{i}, 0, 0]}}\n" for i in range(21))
    path = tmp_path / "voc.yaml"
    path.write_text(
        f"name: voc\nroot: {root}\nclasses:\n{classes}splits:\n  val:\n    images: JPEGImages/{{stem}}.jpg\n"
        "    masks: SegmentationClass/{stem}.png\n    list: val.txt\n"
    )
    split = folder.find(path).open("val")
    assert len(split) == 9
    shares = class_shares(split)
    assert shares.shares[0] > 0.3  # background
    assert 0 < shares.void < 0.2
    assert sum(shares.frames_with[1:]) >= 9
