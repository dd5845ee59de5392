from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is marked `gpu` is skipped where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


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
  optim: {lr: 0.02}
  ema: 0.9
  device: cpu
  checkpoint_seconds: 0.05
  augment: {crop_hw: [64, 96]}
export: {frame_hw: [96, 128]}
"""


SEARCHING_RECIPE = """
about: The whole chain with a search in it, for tests.
data: {dataset: street, frame_hw: [64, 96], train_frames: 6, val_frames: 2, test_frames: 2}
search:
  epochs: 2
  batch: 2
  alpha: 0.5
  theta_lr: 20.0
  removal: 0.06
  samples: 3
  recalibrate: 2
  device: cpu
  checkpoint_seconds: 0.05
  augment: {crop_hw: [64, 64]}
train:
  epochs: 1
  batch: 4
  device: cpu
  augment: {crop_hw: [64, 64]}
export: {frame_hw: [64, 96]}
"""


@pytest.fixture(scope="session")
def searching_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a recipe that searches for its network, six steps long."""
    path = tmp_path_factory.mktemp("recipe") / "searching.yaml"
    path.write_text(SEARCHING_RECIPE)
    return path


@pytest.fixture(scope="session")
def searching_run(searching_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of that recipe, made once; tests must not change it."""
    from edgesmith.pipeline import recipe, run

    folder = tmp_path_factory.mktemp("run") / "searching"
    run.run(recipe.read(str(searching_recipe)), "searching", folder, lambda event, **fields: None)
    return folder


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


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The small convolution network of small_network.py, its frames and its dataset. Needs onnx and onnxruntime."""
    from tests import small_network as s

    return SimpleNamespace(
        network=s.network,
        write_network=s.write_network,
        write_dataset=s.write_dataset,
        frame=s.frame,
        RUINED=s.RUINED,
    )


@pytest.fixture
def fake_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A machine with a GPU, TensorRT and plugins for it, all of them fakes (see tests/fakes)."""
    from tests.fakes import FakeGpu

    yield FakeGpu(tmp_path / "fakes", monkeypatch)
    sys.modules.pop("tensorrt", None)  # where a test had it loaded here


@pytest.fixture
def plugin_model(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """Makes graph folders that the plugins' operators occur in. Needs torch, onnx and onnxruntime."""
    from tests.plugin_model import write_model

    return partial(write_model, make_model)
