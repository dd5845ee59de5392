"""Weights on disk: a folder with `model.json` (see model.py) and safetensors files.

Nothing here unpickles: foreign checkpoints are read with `weights_only=True`, ours are safetensors.
"""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgesmith import models
from edgesmith.models.arch import Segmentation, SqueezeNas
from edgesmith.models.model import read_model

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types of tensors, by safetensors' names."""


def load(folder: Path) -> nn.Module:
    """The module in `folder` with its weights, in eval mode, on the CPU.

    Raises FileNotFoundError, or ValueError naming the file when it is damaged or belongs to another architecture.
    """
    model = read_model(folder)
    module = models.build(model.arch, model.task)
    load_into(module, read_tensors(folder / model.weights), str(folder / model.weights))
    return module.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file. Raises FileNotFoundError, or ValueError when it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as e:
        raise ValueError(f"{path} is not a whole safetensors file: {e}") from None


def tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file's bytes for `tensors` (made contiguous, on the CPU)."""
    return save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})


def tensor_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """A safetensors file of `tensors` piece by piece, so that one of gigabytes needs no second copy of them in memory."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # so that each lies aligned
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        t = tensors[name]
        start, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": _DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        yield tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def load_into(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`; every name and shape must fit. Raises ValueError naming `source` and the first misfits."""
    own = module.state_dict()
    wrong = [f"{k} is missing" for k in own if k not in tensors]
    wrong += [f"{k} is not part of the architecture" for k in tensors if k not in own]
    wrong += [
        f"{k} has shape {tuple(tensors[k].shape)}, the architecture needs {tuple(v.shape)}"
        for k, v in own.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ValueError(f"{source} does not fit the architecture: {'; '.join(wrong[:3])}{more}")
    module.load_state_dict(tensors)


def transfer(module: nn.Module, tensors: dict[str, Tensor], source: str, rows: dict[int, int]) -> list[str]:
    """Copy earlier weights into `module`, whose classes may be others; return the names that keep initial values in part.

    `rows` says which row (class) of the earlier classifiers each new row begins with; rows not named stay as they are.
    Raises ValueError when more than the classifiers differ.
    """
    own = {k: v.clone() for k, v in module.state_dict().items()}
    fitted, fresh = dict(tensors), []
    for name, value in own.items():
        if "classifier" not in name or name not in tensors or tensors[name].shape[1:] != value.shape[1:]:
            continue
        for ours, theirs in rows.items():
            value[ours] = tensors[name][theirs]
        fitted[name] = value
        if len(rows) < len(value):
            fresh.append(name)
    load_into(module, fitted, source)
    return fresh


def read_squeezenas(path: Path, arch: SqueezeNas) -> dict[str, Tensor]:
    """The authors' released state dict in `path`, renamed to the names of `models.build(arch)`.

    Raises FileNotFoundError, or ValueError when the file is not such a state dict.
    """
    theirs = _read_checkpoint(path)
    renamed = {}
    for key, value in theirs.items():
        name = _squeezenas_name(key, arch)
        if name is None:
            raise ValueError(f"{path}: {key!r} is not the name of a SqueezeNAS parameter")
        renamed[name] = value
    return renamed


def guess_squeezenas(path: Path) -> SqueezeNas:
    """The published SqueezeNAS architecture whose names and shapes are those in `path`. Raises ValueError if none fits."""
    theirs = _read_checkpoint(path)
    found = set()
    for name in models.zoo_names():
        arch = models.zoo(name)
        if not isinstance(arch, SqueezeNas):
            continue
        with torch.device("meta"):
            own = {k: tuple(v.shape) for k, v in models.build(arch, Segmentation(19)).state_dict().items()}
        if {_squeezenas_name(k, arch): tuple(v.shape) for k, v in theirs.items()} == own:
            found.add(name)
    # Kernel sizes and groups show in the shapes, dilations do not: several published networks could in principle fit.
    if len(found) != 1:
        raise ValueError(
            f"{path} fits {', '.join(sorted(found)) or 'none'} of the published SqueezeNAS networks; name one with --arch"
        )
    arch = models.zoo(found.pop())
    if not isinstance(arch, SqueezeNas):
        raise TypeError(arch.name)
    return arch


_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch raises for a file that is no checkpoint: its first bytes are taken for instructions."""


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name the state dict that the authors released, a .pth file")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: either it loads or it does not
            value = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as e:
        why = str(e)[:200] or type(e).__name__
        raise ValueError(f"{path} is not a checkpoint that torch reads with weights_only=True: {why}") from None
    if not isinstance(value, dict) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise ValueError(f"{path} is not a state dict (a mapping of names to tensors)")
    return value


def _squeezenas_name(key: str, arch: SqueezeNas) -> str | None:
    """Our name of the authors' parameter `key`, or None."""
    head, _, leaf = key.rpartition(".")
    parts = head.split(".")
    if parts[:2] == ["encoder", "conv1"]:
        return f"stem.{parts[2]}.{leaf}"
    if parts[:2] == ["encoder", "last_conv"]:
        return f"neck.{parts[2]}.{leaf}"
    if parts[:2] == ["encoder", "residuals"] and len(parts) == 5 and parts[4].isdigit():
        layer, position = divmod(int(parts[4]), 3)
        if layer < 3 and parts[2].isdigit() and int(parts[2]) < len(arch.blocks):
            return f"blocks.{parts[2]}.{('expand', 'depthwise', 'project')[layer]}.{position}.{leaf}"
    names = {
        "decoder._1x1_TL.conv": "decoder.value.0",
        "decoder._1x1_TL.bn": "decoder.value.1",
        "decoder._1x1_BL": "decoder.gate",
        "decoder._1x1_TR": "decoder.high_classifier",
        "decoder._1x1_BR": "decoder.low_classifier",
    }
    return f"{names[head]}.{leaf}" if head in names else None
