"""A safetensors file that is written in pieces is what the library reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from edgesmith.models.weights import read_tensors, tensor_bytes, tensor_pieces


def some_tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(8, 3, 3, 3, generator=rng).to(memory_format=torch.channels_last),
        "part": torch.randn(5, 7, generator=rng)[1:4, ::2].requires_grad_(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "steps": torch.tensor(3),
        "rate": torch.tensor(0.25, dtype=torch.float64),
        "low": torch.randn(3, generator=rng).bfloat16(),
        "half": torch.randn(3, generator=rng).half(),
        "mask": torch.tensor([True, False]),
        "count": torch.tensor([1, 2], dtype=torch.int32),
        "none": torch.zeros(0, 4),
    }


def test_pieces_are_a_file_that_holds_all_tensors_and_the_note(tmp_path: Path) -> None:
    tensors = some_tensors()
    (tmp_path / "x.safetensors").write_bytes(b"".join(tensor_pieces(tensors, {"note": "ü"})))
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, t in tensors.items():
        assert found[name].dtype == t.dtype
        assert torch.equal(found[name], t)
    with safe_open(tmp_path / "x.safetensors", "pt") as f:
        assert f.metadata() == {"note": "ü"}


def test_pieces_do_not_depend_on_order_or_layout() -> None:
    tensors = some_tensors()
    turned = {name: tensors[name].contiguous() for name in reversed(tensors)}
    assert b"".join(tensor_pieces(tensors)) == b"".join(tensor_pieces(turned))


def test_as_many_bytes_as_the_library_writes() -> None:
    floats = {name: t.detach() for name, t in some_tensors().items() if t.dtype == torch.float32}
    assert abs(len(b"".join(tensor_pieces(floats))) - len(tensor_bytes(floats))) < 64
