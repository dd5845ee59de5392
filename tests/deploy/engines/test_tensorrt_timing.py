"""Plans are timed in a child of their own, and what ends it ends the timing only. TensorRT, driver and plugins are fakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.deploy.engines.tensorrt import Timed, time_plans
from edgesmith.deploy.plugins import PluginLibrary, our_library

HW = (4, 6)
FRAMES = [np.random.default_rng(i).integers(0, 256, (*HW, 3), np.uint8) for i in range(2)]


@pytest.fixture
def plans(tmp_path: Path) -> dict[str, Path]:
    """Plans as the fake reads them: a native one and one that needs a plugin."""
    found = {}
    for name, operators in (("native", []), ("zoomed", ["ZoomedConv"])):
        found[name] = tmp_path / f"{name}.plan"
        found[name].write_text(json.dumps({"operators": operators, "hw": HW}))
    return found


def library(fake_gpu: Any) -> PluginLibrary:
    return our_library(fake_gpu.library, ("ZoomedConv",))


def timed(plans: dict[str, Path], fake_gpu: Any, **more: Any) -> Timed:
    return time_plans(plans, FRAMES, "tensorrt", library(fake_gpu), rounds=2, **more)


def test_each_plan_has_the_gpus_time_and_its_share_of_the_first_ones_labels(plans: dict[str, Path], fake_gpu: Any) -> None:
    fake_gpu.takes(native=3.0, ZoomedConv=2.0)
    assert timed(plans, fake_gpu) == Timed({"native": 3.0, "zoomed": 2.0}, {"native": 1.0, "zoomed": 1.0})
    fake_gpu.says("WRONG", "ZoomedConv")
    assert timed(plans, fake_gpu).agreement == {"native": 1.0, "zoomed": 0.0}


def test_version_compatible_plans_are_timed(plans: dict[str, Path], fake_gpu: Any) -> None:
    fake_gpu.takes(native=3.0, ZoomedConv=2.0)
    for path in plans.values():
        path.write_text(json.dumps({**json.loads(path.read_text()), "code": True}))
    assert timed(plans, fake_gpu).median_ms == {"native": 3.0, "zoomed": 2.0}


def test_a_plan_that_ends_the_process_is_named_with_the_signal(plans: dict[str, Path], fake_gpu: Any) -> None:
    fake_gpu.takes(native=3.0, ZoomedConv=2.0)
    fake_gpu.says("DIES", "ZoomedConv")
    with pytest.raises(RuntimeError, match=r"native and zoomed: .* killed by SIGSEGV while running the plan zoomed"):
        timed(plans, fake_gpu)


def test_a_plan_that_never_comes_back_is_stopped_and_named(plans: dict[str, Path], fake_gpu: Any) -> None:
    fake_gpu.takes(native=3.0, ZoomedConv=2.0)
    fake_gpu.says("HANGS", "ZoomedConv")
    for timeout_s in (2, 8, 60):  # a busy machine may need longer to get as far as the plan
        with pytest.raises(TimeoutError, match=f"native and zoomed: stopped after {timeout_s} s while") as caught:
            timed(plans, fake_gpu, timeout_s=timeout_s)
        if "running the plan" in str(caught.value):
            break
    assert "while running the plan zoomed; raise timeout_s (--timeout on the command line)" in str(caught.value)


@pytest.mark.parametrize(
    ("what", "message"),
    [("FAILS", "the library did not run the plan"), ("FLOATS", r"zoomed\.plan: labels is not of bytes")],
)
def test_a_plan_that_cannot_be_run_is_refused(plans: dict[str, Path], fake_gpu: Any, what: str, message: str) -> None:
    fake_gpu.takes(native=3.0, ZoomedConv=2.0)
    fake_gpu.says(what, "ZoomedConv")
    with pytest.raises(RuntimeError, match=message):
        timed(plans, fake_gpu)


def test_a_plan_that_cannot_be_read_comes_with_the_librarys_words(plans: dict[str, Path], fake_gpu: Any) -> None:
    with pytest.raises(RuntimeError, match=r"does not read zoomed\.plan; a plugin is missing"):
        time_plans(plans, FRAMES, "tensorrt", None)


def test_frames_of_another_size_are_refused(plans: dict[str, Path], fake_gpu: Any) -> None:
    with pytest.raises(RuntimeError, match="the plan takes 72 bytes; the frame has 90"):
        time_plans(plans, [np.zeros((5, 6, 3), np.uint8)], "tensorrt", library(fake_gpu))
