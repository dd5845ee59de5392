"""The ONNX Runtime engine, with the real library and a tiny graph."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgesmith.deploy.engines import Engine, open_engine
from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine, SessionOptions, processor


@pytest.fixture
def engine(graph: Path, tiny: SimpleNamespace) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(graph, tiny.hw)


def test_labels_are_the_graphs(engine: OnnxRuntimeEngine, tiny: SimpleNamespace) -> None:
    for seed in range(5):
        rgb = tiny.frame_of(seed)
        labels = engine.infer(np.ascontiguousarray(rgb[..., ::-1]))
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, tiny.labels_of(rgb))


def test_the_returned_buffer_is_the_same_at_every_call(engine: OnnxRuntimeEngine, tiny: SimpleNamespace) -> None:
    first = engine.infer(tiny.frame_of(0))
    kept = first.copy()
    second = engine.infer(tiny.frame_of(1))
    assert first is second
    assert not np.array_equal(second, kept)


def test_a_frame_that_is_not_contiguous_gives_the_same_labels(engine: OnnxRuntimeEngine, tiny: SimpleNamespace) -> None:
    rgb = tiny.frame_of(3)
    assert np.array_equal(engine.infer(rgb[..., ::-1]), tiny.labels_of(rgb))


def test_the_caller_may_reuse_its_own_buffer(engine: OnnxRuntimeEngine, tiny: SimpleNamespace) -> None:
    buffer = np.empty((*tiny.hw, 3), np.uint8)
    for seed in (1, 2):
        buffer[:] = tiny.frame_of(seed)[..., ::-1]
        assert np.array_equal(engine.infer(buffer), tiny.labels_of(tiny.frame_of(seed)))


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((24, 32), np.uint8),
        np.zeros((32, 24, 3), np.uint8),
        np.zeros((1, 24, 32, 3), np.uint8),
        np.zeros((24, 32, 3), np.float32),
        np.zeros((24, 32, 3), np.int8),
        [[0, 0, 0]],
    ],
)
def test_a_frame_of_another_shape_or_type_is_refused(engine: OnnxRuntimeEngine, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"this engine takes uint8 \(24, 32, 3\)"):
        engine.infer(frame)


def test_a_closed_engine_says_so(graph: Path, tiny: SimpleNamespace) -> None:
    with OnnxRuntimeEngine(graph, tiny.hw) as engine:
        engine.infer(tiny.frame_of(0))
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.infer(tiny.frame_of(0))


def test_it_says_what_it_is(graph: Path, tiny: SimpleNamespace) -> None:
    import onnxruntime

    engine: Engine = open_engine("onnxruntime", graph, None, tiny.hw, "fp32")
    assert (engine.key, engine.backend, engine.precision) == ("onnxruntime-cpu-fp32", "onnxruntime", "fp32")
    assert engine.version == onnxruntime.__version__
    assert engine.device


@pytest.mark.parametrize("options", [SessionOptions(1), SessionOptions(2, spinning=False)])
def test_labels_do_not_depend_on_threads(graph: Path, tiny: SimpleNamespace, options: SessionOptions) -> None:
    rgb = tiny.frame_of(4)
    with OnnxRuntimeEngine(graph, tiny.hw, options=options) as engine:
        assert np.array_equal(engine.infer(rgb[..., ::-1]), tiny.labels_of(rgb))


def test_a_negative_number_of_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="threads is -1"):
        SessionOptions(-1)


def test_a_missing_truncated_or_foreign_graph_is_refused_with_its_path(graph: Path, tiny: SimpleNamespace) -> None:
    whole = graph.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a graph"):
        graph.write_bytes(broken)
        with pytest.raises(ValueError, match=r"model\.onnx"):
            OnnxRuntimeEngine(graph, tiny.hw)
    graph.unlink()
    with pytest.raises(ValueError, match=r"model\.onnx does not load"):
        OnnxRuntimeEngine(graph, tiny.hw)


def test_a_graph_with_an_unknown_operator_is_refused_with_its_name(graph: Path, tiny: SimpleNamespace) -> None:
    tiny.write_graph(graph, custom="Zoom")
    with pytest.raises(ValueError, match="Zoom"):
        OnnxRuntimeEngine(graph, tiny.hw)


def test_a_graph_of_another_size_than_meta_says_is_refused(graph: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx takes .*\[24, 32, 3\].*asks for .*\[48, 64, 3\]"):
        OnnxRuntimeEngine(graph, (48, 64))


def test_an_unknown_backend_is_refused_with_the_known_ones(graph: Path) -> None:
    with pytest.raises(ValueError, match="unknown backend 'tvm'; there are: onnxruntime, tensorrt_rtx, tensorrt"):
        open_engine("tvm", graph, None, (1, 1), "fp32")


def test_without_onnxruntime_the_error_names_the_command_that_installs_it(
    graph: Path, tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'edgesmith\[cpu\]'"):
        OnnxRuntimeEngine(graph, tiny.hw)


def test_importing_the_device_room_loads_no_backend_and_no_image_library() -> None:
    code = (
        "import sys, edgesmith.deploy.bundle, edgesmith.deploy.engines.onnxruntime, edgesmith.deploy.engines.tensorrt;"
        "print([m for m in ('torch', 'cv2', 'onnxruntime', 'onnx', 'tensorrt_rtx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2 GHz\n", "Some CPU @ 2 GHz"),
        ("Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
    ],
)
def test_the_processor_is_named_as_the_system_names_it(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, name: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: cpuinfo)
    assert processor() == name


def test_a_processor_without_a_name_is_called_by_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, **_: "processor\t: 0\n")
    assert processor()
