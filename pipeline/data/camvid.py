"""CamVid: 701 frames of Cambridge, in 11 classes and the split of 367/101/233 frames that SegNet made customary.

Source: Brostow, Fauqueur, Cipolla, "Semantic Object Classes in Video", Pattern Recognition Letters 2009; the 11 groups
of its 32 classes and the split follow SegNet (Badrinarayanan, Kendall, Cipolla, 2017). Three layouts are recognised by
what lies in the root:

* listed: `train.txt`, `val.txt`, `test.txt` with lines `image<TAB>mask`; labels 0..10, 255 is void.
* SegNet: `train/` and `trainannot/` with equal names (and so on); labels 0..10, 11 is void.
* official: `701_StillsRaw_full/NAME.png`, `LabeledApproved_full/NAME_L.png` in the 32 colours, and the lists
  `train.txt`, `val.txt`, `test.txt` with a NAME a line, which the official download lacks.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from .dataset import VOID, LabelSet
from .pairs import RGB, Coding, FileDataset, Listing, Pair, Problem, list_lines, pairs_of_lines, rgb_code, verified

CAMVID = LabelSet(
    names=(
        "Sky",
        "Building",
        "Pole",
        "Road",
        "Sidewalk",
        "Tree",
        "SignSymbol",
        "Fence",
        "Car",
        "Pedestrian",
        "Bicyclist",
    ),
    palette=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
"""The 11 classes in SegNet's order and colours."""

CLASSES_32: dict[str, tuple[RGB, str | None]] = {
    "Animal": ((64, 128, 64), "Pedestrian"),
    "Archway": ((192, 0, 128), "Building"),
    "Bicyclist": ((0, 128, 192), "Bicyclist"),
    "Bridge": ((0, 128, 64), "Building"),
    "Building": ((128, 0, 0), "Building"),
    "Car": ((64, 0, 128), "Car"),
    "CartLuggagePram": ((64, 0, 192), "Pedestrian"),
    "Child": ((192, 128, 64), "Pedestrian"),
    "Column_Pole": ((192, 192, 128), "Pole"),
    "Fence": ((64, 64, 128), "Fence"),
    "LaneMkgsDriv": ((128, 0, 192), "Road"),
    "LaneMkgsNonDriv": ((192, 0, 64), "Road"),
    "Misc_Text": ((128, 128, 64), "SignSymbol"),
    "MotorcycleScooter": ((192, 0, 192), "Bicyclist"),
    "OtherMoving": ((128, 64, 64), "Car"),
    "ParkingBlock": ((64, 192, 128), "Sidewalk"),
    "Pedestrian": ((64, 64, 0), "Pedestrian"),
    "Road": ((128, 64, 128), "Road"),
    "RoadShoulder": ((128, 128, 192), "Sidewalk"),
    "SUVPickupTruck": ((64, 128, 192), "Car"),
    "Sidewalk": ((0, 0, 192), "Sidewalk"),
    "SignSymbol": ((192, 128, 128), "SignSymbol"),
    "Sky": ((128, 128, 128), "Sky"),
    "TrafficCone": ((0, 0, 64), "Pole"),
    "TrafficLight": ((0, 64, 64), "SignSymbol"),
    "Train": ((192, 64, 128), "Car"),
    "Tree": ((128, 128, 0), "Tree"),
    "Truck_Bus": ((192, 128, 192), "Car"),
    "Tunnel": ((64, 0, 64), "Building"),
    "VegetationMisc": ((192, 192, 0), "Tree"),
    "Void": ((0, 0, 0), None),
    "Wall": ((64, 192, 0), "Building"),
}
"""The 32 classes: colour in the published label_colors.txt, and the one of the 11 classes that takes it (None: void)."""

SPLITS = ("train", "val", "test")
_RAW, _LABELED = "701_StillsRaw_full", "LabeledApproved_full"


def find(root: Path) -> FileDataset:
    """CamVid below `root`. Raises ValueError that says what was looked for when no layout is recognised."""
    if not root.is_dir():
        raise ValueError(f"{root}: is not a folder; CamVid's root must be one")
    if (root / _RAW).is_dir() and (root / _LABELED).is_dir():
        coding = Coding("colour", {rgb_code(rgb): _group(group) for rgb, group in CLASSES_32.values()})
        return FileDataset("camvid", root, CAMVID, coding, {s: _official(root, s) for s in SPLITS})
    classes = {i: i for i in range(len(CAMVID.names))}
    annotated = [s for s in SPLITS if (root / s).is_dir() and (root / f"{s}annot").is_dir()]
    if annotated:
        coding = Coding("index", {**classes, len(classes): VOID})
        return FileDataset("camvid", root, CAMVID, coding, {s: _segnet(root, s) for s in SPLITS})
    if any((root / f"{s}.txt").is_file() for s in SPLITS):
        coding = Coding("index", {**classes, VOID: VOID})
        return FileDataset("camvid", root, CAMVID, coding, {s: _listed(root, s) for s in SPLITS})
    raise ValueError(
        f"{root}: no CamVid layout is recognised. Looked for train.txt, val.txt, test.txt with lines image<TAB>mask; "
        f"for train/ with trainannot/ (SegNet); for {_RAW}/ with {_LABELED}/ (official)"
    )


def _group(name: str | None) -> int:
    return VOID if name is None else CAMVID.names.index(name)


def _listed(root: Path, split: str) -> Listing:
    lines, problems = list_lines(root, f"{split}.txt", split)
    source = str(root / f"{split}.txt")
    pairs, bad = pairs_of_lines(lines, split, source)
    return verified(root, split, source, pairs, [*problems, *bad])


def _segnet(root: Path, split: str) -> Listing:
    frames, masks = root / split, root / f"{split}annot"
    problems = [
        Problem(str(folder), split, "the folder of this split is not there", "add it, or use another split")
        for folder in (frames, masks)
        if not folder.is_dir()
    ]
    names = sorted({p.name for folder in (frames, masks) if folder.is_dir() for p in folder.glob("*.png")})
    pairs = [Pair(f"{split}/{name}", f"{split}annot/{name}") for name in names]
    return verified(root, split, str(frames), pairs, problems)


def _official(root: Path, split: str) -> Listing:
    lines, problems = list_lines(root, f"{split}.txt", split)
    if not (root / f"{split}.txt").is_file():
        fix = f"write {split}.txt with one frame name a line, such as 0001TP_006690; CamVid's download has no split"
        problems = [Problem(str(root / f"{split}.txt"), split, "the list of this split is not there", fix)]
    # A name may stand as in the lists that go around: bare, with .png, as the label's name, or as a path before a tab.
    names = [PurePosixPath(line.split("\t")[0].split(" ")[0]).name.removesuffix(".png") for _, line in lines]
    pairs = [Pair(f"{_RAW}/{n}.png", f"{_LABELED}/{n}_L.png") for n in (name.removesuffix("_L") for name in names)]
    return verified(root, split, str(root / f"{split}.txt"), pairs, problems)
