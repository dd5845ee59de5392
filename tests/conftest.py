from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with datasets and weights that are not part of the project."""
    folder = Path(os.environ.get("EDGESMITH_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the data in {folder}; EDGESMITH_SHARED names another folder")
    return folder


TINY_RECIPE = """
about: The whole chain in seconds, for tests.
data: {dataset: street, frame_hw: [96, 128], train_frames: 16, val_frames: 2, test_frames: 3}
derive: {arch: "zoo:squeezenas-lat-small"}
train:
  epochs: 2
  batch: 4
  lr: 0.02
  ema: 0.9
  device: cpu
  checkpoint_seconds: 0.05
  augment: {crop_hw: [64, 96]}
export: {frame_hw: [96, 128]}
"""


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a recipe that runs the whole chain in seconds."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of that recipe, made once; tests must not change it."""
    from edgesmith.pipeline import recipe, run

    folder = tmp_path_factory.mktemp("run") / "tiny"
    run.run(recipe.read(str(tiny_recipe)), "tiny", folder, lambda event, **fields: None)
    return folder
