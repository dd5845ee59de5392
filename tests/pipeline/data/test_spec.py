"""What a user writes for a dataset, and where its root is looked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesmith.pipeline.data.spec import Data, open_split, parse_spec, splits
from edgesmith.pipeline.yamlfile import dump, parse


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESMITH_DATA", raising=False)


def empty_camvid(root: Path) -> Path:
    root.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").write_text("")
    return root


@pytest.mark.parametrize(
    ("text", "data", "split"),
    [
        ("street", Data(), None),
        ("street@val", Data(), "val"),
        ("camvid", Data("camvid"), None),
        ("camvid:/data/cam", Data("camvid", root="/data/cam"), None),
        ("camvid:/data/a@b/cam@test", Data("camvid", root="/data/a@b/cam"), "test"),
        ("sets/city.yaml@val", Data("sets/city.yaml"), "val"),
        ("/a:b/c.yml", Data("/a:b/c.yml"), None),
    ],
)
def test_specs_name_dataset_root_and_split(text: str, data: Data, split: str | None) -> None:
    assert parse_spec(text) == (data, split)


@pytest.mark.parametrize("text", ["", "@val", "strete", "street:/x", "camvid:", "kitti:/x@val", "x.json"])
def test_other_specs_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs street, camvid, camvid:ROOT or the path of a \.yaml file"):
        parse_spec(text)


def test_impossible_data_is_located_in_a_recipe() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        parse("dataset: kitti\ntrain_frames: 0\nseed: -1\nframe_hw: [0, 3]\n", "r.yaml", Data)
    assert str(caught.value).splitlines() == [
        "r.yaml:1: dataset = kitti: needs street, camvid or the path of a .yaml file",
        "r.yaml:4: frame_hw = [0, 3]: only street draws frames of any size; leave it out",
        "r.yaml:2: train_frames = 0: needs 1 to 1000000 frames",
        "r.yaml:3: seed = -1: needs 0 to 2147483647",
    ]
    data = Data(frame_hw=(64, 96), seed=4)
    assert parse(dump(data), "r.yaml", Data) == data


def test_the_root_is_the_explicit_one_else_below_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explicit, inside = empty_camvid(tmp_path / "x"), empty_camvid(tmp_path / "base/camvid")
    itself = empty_camvid(tmp_path / "itself")

    def root_of(data: Data) -> str:
        with pytest.raises(ValueError, match="lists nothing") as caught:
            open_split(data, "val")
        return str(caught.value)

    monkeypatch.setenv("EDGESMITH_DATA", str(tmp_path / "base"))
    assert str(explicit) in root_of(Data("camvid", root=str(explicit)))
    assert str(inside) in root_of(Data("camvid"))
    monkeypatch.setenv("EDGESMITH_DATA", str(itself))
    assert str(itself) in root_of(Data("camvid"))


def test_a_root_that_is_not_known_says_both_ways_to_give_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"set EDGESMITH_DATA to .* or give its root: --set data\.root=DIR, camvid:DIR"):
        open_split(Data("camvid"), "val")
    monkeypatch.setenv("EDGESMITH_DATA", str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"EDGESMITH_DATA=.* is not a folder"):
        open_split(Data("camvid"), "val")
    with pytest.raises(ValueError, match="is not a folder"):
        open_split(Data("camvid", root=str(tmp_path / "absent")), "val")


def test_a_description_that_is_not_there_says_where_paths_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"^dataset: city\.yaml is not in .*; paths, .* start from the folder you run in"
    ):
        open_split(Data("city.yaml"), "val")
    with pytest.raises(FileNotFoundError, match=r"^dataset: .*/absent\.yaml does not exist; "):
        open_split(Data(str(tmp_path / "absent.yaml")), "val")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(IsADirectoryError, match=r"^dataset: folder\.yaml is a folder; "):
        open_split(Data("folder.yaml"), "val")


def test_street_splits_are_disjoint_for_all_seeds() -> None:
    seen = set()
    for seed in range(3):
        data = Data(frame_hw=(64, 96), seed=seed, train_frames=2, val_frames=2, test_frames=2)
        for name in splits(data):
            split = open_split(data, name)
            assert len(split) == 2
            frame = split[0].frame
            assert frame.shape == (64, 96, 3)
            assert np.array_equal(frame, open_split(data, name)[0].frame)
            seen.add(frame.tobytes())
    assert len(seen) == 9
    with pytest.raises(ValueError, match="street has no split 'all'; it has train, val, test"):
        open_split(Data(), "all")


@pytest.mark.parametrize(
    ("data", "environment", "field"),
    [
        (Data("camvid", root="~nouser/x"), "", "root"),
        (Data("~nouser/set.yaml"), "", "dataset"),
        (Data("set.yaml", root="~nouser"), "", "root"),
        (Data("camvid"), "~nouser/data", "EDGESMITH_DATA"),
    ],
)
def test_the_home_of_a_user_that_does_not_exist_is_refused(
    data: Data, environment: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESMITH_DATA", environment)
    with pytest.raises(ValueError, match=rf"^{field}: ~nouser.*: there is no home folder of that user"):
        open_split(data, "val")


@pytest.mark.parametrize("frame_hw", [(63, 64), (64, 63), (64, 16385)])
def test_a_street_smaller_than_can_be_drawn_is_refused_when_the_recipe_is_read(frame_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"^frame_hw: needs height and width of 64 to 16384 pixels$"):
        Data(frame_hw=frame_hw)
