"""One test a stage on a machine with an NVIDIA GPU: the chain with its training there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesmith import models
from edgesmith.deploy.bundle import Bundle, check_golden
from edgesmith.deploy.files import read_json
from edgesmith.models.model import read_model
from edgesmith.pipeline import recipe, run
from edgesmith.pipeline.data.street import render
from edgesmith.pipeline.reference import labels_by_torch

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cuda_run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda") / "run"
    run.run(recipe.read(str(tiny_recipe), ["train.device=cuda"]), "tiny", folder, lambda event, **fields: None)
    return folder


def test_train_computes_on_cuda_and_its_weights_label_alike_on_both(cuda_run: Path) -> None:
    sidecar = read_json(cuda_run / "train" / "artifact.json")
    assert (sidecar["device"], sidecar["precision"]) == ("cuda", "bf16")
    module, model = models.load(cuda_run / "train"), read_model(cuda_run / "train")
    frame = render(0, 0, (96, 128)).frame
    by_cpu = labels_by_torch(module, frame, model.mean, model.std)
    by_cuda = labels_by_torch(module.cuda(), frame, model.mean, model.std)
    assert np.mean(by_cpu == by_cuda) > 0.99


def test_export_of_weights_from_cuda_has_parity(cuda_run: Path) -> None:
    assert read_json(cuda_run / "onnx" / "meta.json")["parity"]["relative"] <= 1e-4


def test_build_makes_a_bundle_that_runs(cuda_run: Path) -> None:
    bundle = Bundle.open(cuda_run / "bundle")
    with bundle.engine() as engine:
        assert check_golden(bundle, engine).passed


def test_validate_agrees_with_torch(cuda_run: Path) -> None:
    assert read_json(cuda_run / "validation" / "validation.json")["agreement"]["pixel_agreement"] > 0.999
