"""Every network of the zoo, with random weights, exports with parity and builds: in ONNX Runtime and in TensorRT for RTX."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from edgesmith import models
from edgesmith.deploy.bundle import Bundle
from edgesmith.pipeline.artifacts import Slot
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.export import PARITY, Export
from edgesmith.pipeline.imports import weights_of

SMALLEST = ("squeezenas-mac-small", "fasterseg-student")


def exports_and_builds(name: str, hw: tuple[int, int], folder: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    with weights_of(f"zoo:{name}") as weights:
        model = Export(hw)(weights, Slot(folder / "onnx"))
    parity = json.loads((model.path / "meta.json").read_text())["parity"]
    assert parity["max_abs_diff"] <= PARITY * parity["max_abs_logit"]
    made = Build(("onnxruntime", "tensorrt_rtx"))(model, Slot(folder / "bundle"))  # runs the golden frames, too
    bundle = Bundle.open(made.path)
    bundle.verify()
    assert {e.backend for e in bundle.engines.values()} == {"onnxruntime", "tensorrt_rtx"}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_of_each_family_exports_with_parity_and_builds(name: str, tmp_path: Path) -> None:
    exports_and_builds(name, (256, 512), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in models.zoo_names() if n not in SMALLEST])
def test_every_network_exports_with_parity_and_builds(name: str, tmp_path: Path) -> None:
    exports_and_builds(name, (256, 512), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.zoo_names())
def test_every_network_exports_with_parity_and_builds_at_its_published_size(name: str, tmp_path: Path) -> None:
    exports_and_builds(name, (1024, 2048), tmp_path)
