"""The table of options against the library that is here, and what is said of those that a version lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from edgesmith.deploy.engines.tensorrt_builder import MODULES, require_library
from edgesmith.deploy.engines.tensorrt_options import SUPPORT, PlanOptions, ignored, supports, version_number

LIBRARY = """
import json
import tensorrt_rtx as trt
config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
print(json.dumps({
    "version": trt.__version__,
    "progress_monitor": hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor"),
    "workspace_mib": hasattr(trt.MemoryPoolType, "WORKSPACE"),
    "version_compatible": hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"),
    "compute_capability": hasattr(config, "set_compute_capability"),
}))
"""


def test_the_table_is_complete() -> None:
    assert all(set(row) == set(MODULES) for row in SUPPORT.values())


def test_the_table_says_of_tensorrt_for_rtx_what_the_library_has() -> None:
    try:
        require_library("tensorrt_rtx")
    except ImportError as e:
        pytest.skip(str(e))
    done = subprocess.run([sys.executable, "-c", LIBRARY], capture_output=True, text=True, check=True)
    has = json.loads(done.stdout)
    version = has.pop("version")
    assert has == {name: supports(name, "tensorrt_rtx", version) for name in has}


@pytest.mark.parametrize(
    ("version", "flag", "monitor"),
    [("8.5.2", False, False), ("10.3.0", True, True), ("10.16.1.11", True, True), ("11.1", False, True)],
)
def test_versions_of_tensorrt_differ_where_their_headers_do(version: str, flag: bool, monitor: bool) -> None:
    assert supports("strongly_typed_flag", "tensorrt", version) == flag
    assert supports("progress_monitor", "tensorrt", version) == monitor


def test_what_is_not_honoured_is_put_in_words() -> None:
    options = PlanOptions("cache", workspace_mib=64, optimization_level=5, version_compatible=True)
    assert ignored(options, "tensorrt", "10.3.0") == []
    assert ignored(PlanOptions(), "tensorrt", "8.2.1") == []
    assert ignored(options, "tensorrt", "8.2.1") == [
        f"{what} is not honoured by tensorrt 8.2.1"
        for what in ("workspace_mib 64", "optimization_level 5", "version_compatible True")
    ]
    assert [words.partition(":")[0] for words in ignored(options, "tensorrt_rtx", "1.7.1.116")] == [
        "timing_cache cache is not honoured by tensorrt_rtx 1.7.1.116",
        "optimization_level 5 is not honoured by tensorrt_rtx 1.7.1.116",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workspace_mib": 0}, "workspace_mib: 0 is not 1 or more"),
        ({"optimization_level": 6}, "optimization_level: 6 is not 0 to 5"),
        ({"timing_cache": ""}, "timing_cache: is empty"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlanOptions(**options)


def test_a_version_ends_at_what_is_no_number() -> None:
    assert version_number("10.3.0.post1") == (10, 3, 0)
    assert version_number("unknown") == ()
