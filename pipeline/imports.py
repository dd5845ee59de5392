"""Weights that were not trained here: the authors' checkpoints, and published networks with random weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgesmith import models
from edgesmith.deploy.files import sha256_file, write_bytes, write_json
from edgesmith.models.arch import Arch, SqueezeNas
from edgesmith.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, model_json

from .artifacts import Weights, open_artifact, require_free
from .data.cityscapes import CITYSCAPES
from .events import silent
from .stage import is_current, stage_key, standalone_slot


@dataclass(frozen=True)
class ImportSqueezeNas:
    """The authors' state dict (Cityscapes, 19 classes) as Weights."""

    file_sha256: str
    arch: str
    """Name of the published network that the file belongs to."""
    version: ClassVar[int] = 1


@dataclass(frozen=True)
class Untrained:
    """A published network with the weights that it is built with under a seed."""

    arch: str
    seed: int = 0
    version: ClassVar[int] = 1


def import_squeezenas(file: Path, out: Path, arch_name: str | None = None) -> Weights:
    """Write the authors' state dict in `file` as a weights folder at `out`.

    Raises FileNotFoundError, or ValueError when the file is not such a state dict or does not fit `arch_name`.
    """
    from edgesmith.models import weights

    arch = weights.guess_squeezenas(file) if arch_name is None else models.zoo(arch_name.removeprefix("zoo:"))
    if not isinstance(arch, SqueezeNas):
        raise ValueError(f"--arch: {arch_name} is not a SqueezeNAS network")
    module = models.build(arch, models.Segmentation(len(CITYSCAPES.names)))
    weights.load_into(module, weights.read_squeezenas(file, arch), str(file))
    stage = ImportSqueezeNas(sha256_file(file), arch.name)
    return _write(stage, arch, weights.tensor_bytes(module.state_dict()), out)


@contextmanager
def weights_of(source: str) -> Iterator[Weights]:
    """The weights folder `source`, or for `zoo:NAME` that network untrained, in a folder that lasts as long as the block."""
    if source.endswith(".json") and Path(source).is_file():
        raise ValueError(
            f"{source} is an architecture without weights; train it: edgesmith run RECIPE --set derive.arch={source}"
        )
    if not source.startswith("zoo:"):
        yield open_artifact(Weights, Path(source))
        return
    import torch

    from edgesmith.models.weights import tensor_bytes

    stage = Untrained(source.removeprefix("zoo:"))
    arch = models.zoo(stage.arch)
    torch.manual_seed(stage.seed)
    module = models.build(arch, models.Segmentation(len(CITYSCAPES.names)))
    with tempfile.TemporaryDirectory() as folder:
        yield _write(stage, arch, tensor_bytes(module.state_dict()), Path(folder) / "weights")


def _write(stage: ImportSqueezeNas | Untrained, arch: Arch, tensors: bytes, out: Path) -> Weights:
    model = Model(arch, CITYSCAPES.names, CITYSCAPES.palette, IMAGENET_MEAN, IMAGENET_STD, "weights.safetensors")
    key = stage_key(stage)
    if is_current(Weights(out), key):
        return Weights(out)
    require_free(out)
    with standalone_slot(out, stage, key, silent).writing(Weights) as folder:
        write_bytes(folder / model.weights, tensors)
        write_json(folder / "model.json", model_json(model))
    return Weights(out)
