from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgesmith.pipeline.graphs import graph

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ENLARGEMENTS = [
    ((3, 4), (24, 32)),
    ((5, 7), (37, 53)),  # no band fits exactly
    ((12, 10), (12, 10)),  # nothing to enlarge
    ((40, 30), (9, 17)),  # the frame is smaller than the logits
    ((2, 2), (1, 1)),
]


def bilinear(low: int, high: int) -> graph.Float:
    """Half-pixel bilinear interpolation as a matrix (high, low)."""
    at = np.clip((np.arange(high) + 0.5) * low / high - 0.5, 0, low - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(low))).astype(np.float32)


def run(model: ModelProto, **given: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, given)[0])


def network(*, first: str = "Conv") -> ModelProto:
    """Normalised RGB (1, 3, 16, 24) -> logits (1, 4, 8, 12), by a padded convolution, which is `first` or second."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["low"], "conv", strides=[2, 2], pads=[1, 1, 1, 1], doc_string="here")]
    if first != "Conv":
        nodes.insert(0, helper.make_node(first, ["x"], ["y"], alpha=0.5))
        nodes[1].input[0] = "y"
    inside = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 24])],
        [helper.make_tensor_value_info("low", TensorProto.FLOAT, [1, 4, 8, 12])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(inside, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def assemble(
    model: ModelProto, colour_order: Literal["bgr", "rgb"] = "bgr", frame_hw: tuple[int, int] = (16, 24)
) -> graph.Assembled:
    enlargement = bilinear(8, frame_hw[0]), bilinear(12, frame_hw[1])
    return graph.assemble(model, frame_hw=frame_hw, colour_order=colour_order, mean=MEAN, std=STD, enlargement=enlargement)


def frame(hw: tuple[int, int] = (16, 24)) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*hw, 3), np.uint8)


@pytest.mark.parametrize(("low", "high"), [(5, 37), (45, 360), (30, 9), (7, 7), (1, 50)])
def test_bands_multiply_to_the_matrix(low: int, high: int) -> None:
    matrix = bilinear(low, high)
    x = np.random.default_rng(0).normal(size=(low, 6)).astype(np.float32)

    columns, blocks = graph.bands(matrix, graph.band_rows(high))

    rows = (blocks @ x[columns]).reshape(-1, 6)
    np.testing.assert_allclose(rows[:high], matrix @ x, rtol=0, atol=1e-6)
    assert not rows[high:].any()


def test_bands_of_common_frame_sizes_leave_no_row_over() -> None:
    assert [h % graph.band_rows(h) for h in (360, 480, 512, 720, 1024, 1080, 1280, 1920, 2048)] == [0] * 9


@pytest.mark.parametrize(("low", "high"), ENLARGEMENTS)
@pytest.mark.parametrize("classes", [1, 2, 19])
@pytest.mark.parametrize("part_bytes", [1, graph.PART_BYTES])
def test_labels_are_the_argmax_of_the_enlarged_logits(
    low: tuple[int, int], high: tuple[int, int], classes: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "PART_BYTES", part_bytes)
    logits = np.random.default_rng(2).normal(size=(1, classes, *low)).astype(np.float32)
    rows, columns = bilinear(low[0], high[0]), bilinear(low[1], high[1])
    expected = rows.astype(np.float64) @ logits[0].astype(np.float64) @ columns.T.astype(np.float64)  # (classes, H, W)

    assembled = graph.enlarging(classes, (rows, columns))
    graph.check(assembled.model)
    labels = run(assembled.model, logits=logits)

    best = np.sort(expected, 0)
    sure = best[-1] - best[-2] > 1e-5 if classes > 1 else np.full(high, True)
    assert labels.dtype == np.uint8
    assert labels.shape == high
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(labels[sure], expected.argmax(0)[sure])


def test_equal_logits_give_the_first_class_of_them() -> None:
    labels = run(graph.enlarging(7, (bilinear(3, 24), bilinear(4, 32))).model, logits=np.ones((1, 7, 3, 4), np.float32))

    assert not labels.any()


@pytest.mark.parametrize("first", ["Conv", "LeakyRelu"])
def test_normalisation_and_colour_order_are_inside(first: str) -> None:
    rgb = frame()
    x = ((rgb / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)[None]
    low = run(network(first=first), x=x)[0]  # (4, 8, 12)
    expected = (bilinear(8, 16) @ low @ bilinear(12, 24).T).argmax(0)

    np.testing.assert_array_equal(run(assemble(network(first=first), "rgb").model, frame=rgb), expected)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    np.testing.assert_array_equal(run(assemble(network(first=first), "bgr").model, frame=bgr), expected)
    assert (run(assemble(network(first=first), "bgr").model, frame=rgb) != expected).any()


def test_assembling_leaves_the_network_as_it_was() -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)

    assemble(model)

    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("frame_hw", [(16, 24), (33, 41)])
def test_cast_is_first_and_last_and_nothing_else_sees_uint8(frame_hw: tuple[int, int]) -> None:
    model = assemble(network(), frame_hw=frame_hw).model

    assert [n.op_type for n in model.graph.node if "frame" in n.input] == ["Cast"]
    assert model.graph.node[-1].op_type == "Cast"
    assert list(model.graph.node[-1].output) == ["labels"]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    inner = [v.name for v in inferred.graph.value_info if v.type.tensor_type.elem_type == TensorProto.UINT8]
    assert inner == []


def test_a_resized_frame_and_the_enlarged_logits_can_be_looked_at() -> None:
    assembled = assemble(network(), frame_hw=(33, 41))
    assert assembled.resized is not None
    names = [*assembled.enlarged, assembled.resized]
    probe = graph.with_outputs(assembled.model, names)

    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    *enlarged, resized = session.run(names, {"frame": frame((33, 41))})

    assert np.concatenate(enlarged).shape[1:] == (41, 4)
    assert len(np.concatenate(enlarged)) >= 33
    assert resized.shape == (1, 3, 16, 24)
    assert assemble(network()).resized is None


def test_graph_is_of_opset_18_and_the_lowest_version_that_allows_it() -> None:
    model = graph.cleaned(assemble(network()).model)

    graph.check(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert model.ir_version == 8


def test_cleaning_removes_what_an_exporter_says_of_itself() -> None:
    model = assemble(network()).model
    model.doc_string = model.graph.doc_string = "made in /home/someone"
    model.producer_version = "1"
    for message in (model, model.graph, model.graph.node[0], model.graph.initializer[0]):
        entry = message.metadata_props.add()
        entry.key, entry.value = "stack_trace", "/home/someone/train.py"
    model.graph.node[0].attribute[0].doc_string = "/home/someone"
    model = onnx.shape_inference.infer_shapes(model)

    clean = graph.cleaned(model)

    assert b"someone" not in clean.SerializeToString()
    assert b"here" not in clean.SerializeToString()
    assert not clean.graph.value_info
    assert clean == graph.cleaned(assemble(network()).model)
    assert model.doc_string  # the given one is untouched


def test_operators_that_are_not_onnx_s_own_are_refused() -> None:
    model = network()
    model.graph.node[0].domain = "my.ops"

    with pytest.raises(ValueError, match=r"my\.ops"):
        graph.cleaned(model)


def test_an_invalid_graph_is_refused() -> None:
    model = assemble(network()).model
    model.graph.node[2].input[0] = "nowhere"

    with pytest.raises(RuntimeError, match="not valid ONNX"):
        graph.check(model)


@pytest.mark.parametrize("opsets", [[("", 17)], [("", 19)], [], [("my.ops", 18)], [("", 18), ("ai.onnx", 17)]])
def test_a_network_of_another_opset_is_refused(opsets: list[tuple[str, int]]) -> None:
    model = network()
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)

    with pytest.raises(ValueError, match=r"are of opset .*; it must be exported with 18"):
        assemble(model)


def test_a_network_of_other_shapes_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="does not lead from"):
        graph.assemble(
            model,
            frame_hw=(16, 24),
            colour_order="rgb",
            mean=MEAN,
            std=STD,
            enlargement=(bilinear(9, 16), bilinear(12, 24)),
        )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ValueError, match="batch 1"):
        assemble(model)
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "h"
    with pytest.raises(ValueError, match="fixed"):
        graph.low_hw(model)
