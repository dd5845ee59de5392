"""Graphs in lower precision: what is rewritten, what is left alone, and that it still computes the network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from edgesmith.calibration.int8 import Calibration, Layer, Outcome, Source
from edgesmith.pipeline.graphs.cpu import session
from edgesmith.pipeline.graphs.graph import graph_digest, with_outputs
from edgesmith.pipeline.graphs.precision import convolutions, logits_of, lowered, quantised, scale_of, value_types


@pytest.fixture
def model(small: Any) -> ModelProto:
    found: ModelProto = small.network()
    return found


def ranges(model: ModelProto, small: Any) -> dict[str, float]:
    """Largest magnitude of each convolution's input over a few frames."""
    found = convolutions(model)
    names = sorted({c.input for c in found})
    runner = session(with_outputs(model, names))
    seen = [runner.run(names, {"frame": small.frame(i)}) for i in range(8)]
    largest = {name: max(float(np.abs(values[i]).max()) for values in seen) for i, name in enumerate(names)}
    return {c.name: largest[c.input] for c in found}


def calibration(model: ModelProto, amax: dict[str, float], held: tuple[str, ...] = ()) -> Calibration:
    layers = {
        c.name: Layer(c.input, c.macs, amax[c.name], amax[c.name], 0.0, held="too dear" if c.name in held else None)
        for c in convolutions(model)
    }
    source = Source(graph_digest(model), "", "", "small", "", ("a",), ("b",))
    return Calibration("minmax", layers, source, Outcome(1.0, 1.0, 0.5))


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def producer(model: ModelProto, value: str) -> NodeProto:
    return next(n for n in model.graph.node if value in n.output)


def agreement(model: ModelProto, other: ModelProto, small: Any) -> float:
    a, b = session(model), session(other)
    frames = [small.frame(i) for i in range(20, 26)]
    return float(np.mean([a.run(None, {"frame": f})[0] == b.run(None, {"frame": f})[0] for f in frames]))


def logits_error(model: ModelProto, other: ModelProto, small: Any) -> float:
    name = logits_of(model)
    given = {"frame": small.frame(30)}
    a, b = (session(with_outputs(m, [name])).run([name], given)[0].astype(np.float64) for m in (model, other))
    return float(np.sqrt(np.square(a - b).mean() / np.square(a).mean()))


def test_fp32_is_a_copy(model: ModelProto) -> None:
    copy = lowered(model, "fp32")
    assert copy == model
    copy.graph.node[0].name = "changed"
    assert copy != model


def test_a_graph_is_not_changed_by_lowering_it(model: ModelProto, small: Any) -> None:
    before = model.SerializeToString(deterministic=True)
    lowered(model, "fp16")
    quantised(model, ranges(model, small))
    assert model.SerializeToString(deterministic=True) == before


def test_the_digest_is_that_of_the_file(model: ModelProto, tmp_path: Path) -> None:
    import hashlib

    data = model.SerializeToString(deterministic=True)
    (tmp_path / "model.onnx").write_bytes(data)
    assert graph_digest(onnx.load(str(tmp_path / "model.onnx"))) == hashlib.sha256(data).hexdigest()


def test_fp16_reaches_from_the_first_convolution_to_the_last(model: ModelProto, small: Any) -> None:
    half = lowered(model, "fp16")
    assert [(o.domain, o.version) for o in half.opset_import] == [("", 18)]
    types = {name: kind for name, (kind, _) in value_types(half).items()}
    halves = {n.name for n in half.graph.node if types[n.output[0]] == TensorProto.FLOAT16 and not n.name.endswith("/fp16")}
    convs = {"stem", "spread", "after_spread", "gate", "value", "classifier"}
    assert halves == convs | {"stem_relu", "spread_relu", "residual", "sigmoid", "value_relu", "gated"}
    for name in convs:
        assert {types[v] for v in node(half, name).input} == {TensorProto.FLOAT16}
    for name in ("centre", "mean", "enlarge"):  # the frame, a sum over the map, what ArgMax looks at
        assert types[node(half, name).output[0]] == TensorProto.FLOAT
    assert [p.type.tensor_type.elem_type for p in (*half.graph.input, *half.graph.output)] == [TensorProto.UINT8] * 2
    assert agreement(model, half, small) > 0.99
    assert 0 < logits_error(model, half, small) < 5e-3


def test_int8_is_explicit_symmetric_and_leaves_biases_alone(model: ModelProto, small: Any) -> None:
    low = lowered(model, "int8", calibration(model, ranges(model, small), held=("value",)))
    assert [(o.domain, o.version) for o in low.opset_import] == [("", 19)]
    constants = {c.name: c for c in low.graph.initializer}
    for n in low.graph.node:
        if n.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = numpy_helper.to_array(constants[n.input[2]])
            assert zero.dtype == np.int8
            assert not zero.any()
            assert constants[n.input[1]].data_type == TensorProto.FLOAT16
    for name in ("stem", "spread", "after_spread", "gate", "classifier"):
        x, weight, bias = node(low, name).input
        assert producer(low, x).op_type == producer(low, weight).op_type == "DequantizeLinear"
        assert constants[producer(low, weight).input[0]].data_type == TensorProto.INT8
        assert constants[bias].data_type == TensorProto.FLOAT16
    assert {producer(low, v).op_type for v in node(low, "value").input[:1]} == {"Add"}
    assert agreement(model, low, small) > 0.95
    assert 1e-4 < logits_error(model, low, small) < 0.1


def test_weights_are_rounded_by_half_a_step_a_channel_at_most(model: ModelProto, small: Any) -> None:
    low = quantised(model, ranges(model, small))
    constants = {c.name: numpy_helper.to_array(c) for c in low.graph.initializer}
    exact = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    for c in convolutions(model):
        steps, scale = constants[f"{c.weight}/int8"], constants[f"{c.weight}/scale"].astype(np.float64)
        assert (np.abs(steps).reshape(len(steps), -1).max(1) >= 126).all()
        assert np.abs(steps).max() <= 127
        scale = scale.reshape(-1, 1, 1, 1)
        assert (np.abs(steps * scale - exact[c.weight]) <= scale * 0.5001).all()


def test_a_value_that_several_take_is_quantised_once(model: ModelProto, small: Any) -> None:
    low = quantised(model, ranges(model, small))
    names = [n.name for n in low.graph.node]
    assert len(set(names)) == len(names)
    shared = convolutions(model)[1].input  # the stem's output: of a convolution and of the residual
    assert [n.op_type for n in low.graph.node if shared in n.input] == ["QuantizeLinear", "Add"]


def test_biases_are_not_quantised_behind_our_back(model: ModelProto, small: Any) -> None:
    # ONNX Runtime 1.21 and later do so unless told not to: int32 by a scale that fp16 has no number for.
    for constant in model.graph.initializer:
        if constant.name in ("module.value.weight", "value/bias"):
            value = numpy_helper.to_array(constant)
            change = value * 1e-3 if constant.name.endswith("weight") else value + 5
            constant.CopyFrom(numpy_helper.from_array(change.astype(np.float32), constant.name))
    amax = ranges(model, small)
    assert logits_error(model, quantised(model, amax), small) < 2 * logits_error(model, quantised(model, amax, "fp32"), small)


def test_scales_are_fp16_numbers_that_clip_nothing() -> None:
    amax = np.array([0.0, 1e-6, 0.1, 1.0, 127.0, 1e5])
    scale = scale_of(amax)
    assert scale.dtype == np.float16
    assert scale[0] == 1
    assert (scale[1:].astype(np.float64) * 127 >= amax[1:]).all()
    assert (scale[2:].astype(np.float64) * 127 <= amax[2:] * 1.001).all()
    with pytest.raises(ValueError, match="beyond"):
        scale_of(np.array([1e9]))


def test_a_constant_that_fp16_cannot_hold_is_named(model: ModelProto) -> None:
    bias = next(c for c in model.graph.initializer if c.name == "value/bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(8, 1e6, np.float32), bias.name))
    with pytest.raises(ValueError, match="value/bias"):
        lowered(model, "fp16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: None, "needs a calibration"),
        (lambda c: replace(c, source=replace(c.source, graph="0" * 64)), "was made for graph 000000000000"),
    ],
)
def test_int8_needs_the_calibration_of_this_graph(
    model: ModelProto, small: Any, change: Callable[[Calibration], Any], message: str
) -> None:
    made = calibration(model, ranges(model, small))
    with pytest.raises(ValueError, match=message):
        lowered(model, "int8", change(made))


def test_what_cannot_be_lowered_is_refused(model: ModelProto, graph: Path) -> None:
    with pytest.raises(ValueError, match="'bf16'; there are: fp32, fp16, int8"):
        lowered(model, "bf16")  # type: ignore[arg-type]
    node(model, "value").name = "gate"
    with pytest.raises(ValueError, match="same name"):
        convolutions(model)
    without = ModelProto()
    without.CopyFrom(onnx.load(str(graph)))
    node(without, "head").op_type = "Mul"
    del node(without, "head").input[1:], node(without, "head").attribute[:]
    node(without, "head").input.append("x")
    with pytest.raises(ValueError, match="no convolution"):
        lowered(without, "fp16")


def test_macs_are_counted_by_output_and_kernel(model: ModelProto) -> None:
    macs = {c.name: c.macs for c in convolutions(model)}
    assert macs == {
        "stem": 12 * 16 * 8 * 27,
        "spread": 12 * 16 * 64,
        "after_spread": 12 * 16 * 64,
        "gate": 64,
        "value": 12 * 16 * 8 * 72,
        "classifier": 12 * 16 * 24,
    }


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT for RTX")
def test_tensorrt_for_rtx_builds_both(model: ModelProto, small: Any, tmp_path: Path) -> None:
    from tests.rtx import verdicts

    onnx.save(lowered(model, "fp16"), str(tmp_path / "fp16.onnx"))
    onnx.save(quantised(model, ranges(model, small)), str(tmp_path / "int8.onnx"))
    assert verdicts({p: tmp_path / f"{p}.onnx" for p in ("fp16", "int8")}) == {"fp16": "", "int8": ""}
