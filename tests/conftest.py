from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
data: {dataset: street, frame_hw: [96, 128], train_frames: 32, val_frames: 2, test_frames: 3}
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


@pytest.fixture(scope="session")
def tiny() -> SimpleNamespace:
    """The tiny network of onnx_models.py, for tests that need more of it than the fixtures below. Needs onnx."""
    from tests.onnx_models import META, H, W, frame_of, labels_of, write_graph, write_model

    return SimpleNamespace(
        META=META, hw=(H, W), write_graph=write_graph, write_model=write_model, labels_of=labels_of, frame_of=frame_of
    )


@pytest.fixture
def graph(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    """The tiny network's graph."""
    tiny.write_graph(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def make_model(tiny: SimpleNamespace, tmp_path: Path) -> Callable[..., Any]:
    """Makes OnnxModel folders as the export stage leaves them, from the tiny network."""
    from edgesmith.pipeline.artifacts import Slot

    def make(name: str = "onnx", **changes: Any) -> Any:
        options = {k: changes.pop(k) for k in ("golden", "custom") if k in changes}
        return tiny.write_model(Slot(tmp_path / name), meta=replace(tiny.META, **changes), **options)

    return make


@pytest.fixture(scope="session")
def bundle_folder(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built bundle of the tiny network. Shared: copy it before changing it."""
    from edgesmith.pipeline.artifacts import Slot
    from edgesmith.pipeline.build import Build

    root = tmp_path_factory.mktemp("bundles")
    folder: Path = Build()(tiny.write_model(Slot(root / "onnx")), Slot(root / "bundle")).path
    return folder
