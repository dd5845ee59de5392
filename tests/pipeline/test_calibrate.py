"""Calibration of a small network: ranges, sensitivity, fallback, refusal, and that a kill costs nothing but time."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgesmith.calibration.int8 import Calibration
from edgesmith.deploy.bundle import CALIBRATION
from edgesmith.deploy.files import payload_files
from edgesmith.pipeline.artifacts import OnnxModel, Slot, open_artifact
from edgesmith.pipeline.calibrate import Calibrate
from edgesmith.pipeline.data.choose import end_to_end, stratified
from edgesmith.pipeline.data.dataset import LabelSet, Sample
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.stage import stage_key

SETTINGS: dict[str, Any] = {"frames": 6, "held_out": 8, "limit_drop": 5.0}
SPREAD = 2000.0


@pytest.fixture(scope="module")
def made(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Data]:
    """The small network and a dataset that it labels without a fault."""
    root = tmp_path_factory.mktemp("small")
    return small.write_network(Slot(root / "onnx"), small.network()), small.write_dataset(root / "data", small.network())


@pytest.fixture(scope="module")
def ruined(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxModel, Data]:
    """The same with one convolution that INT8 ruins."""
    root = tmp_path_factory.mktemp("ruined")
    network = small.network(SPREAD)
    return small.write_network(Slot(root / "onnx"), network), small.write_dataset(root / "data", network)


def calibrated(given: tuple[OnnxModel, Data], out: Path, **settings: Any) -> Calibration:
    model, data = given
    return Calibration.read(Calibrate(data, **{**SETTINGS, **settings})(model, Slot(out)).path / CALIBRATION)


def test_the_result_is_the_graph_folder_with_its_calibration(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    found = calibrated(made, tmp_path / "out")
    out = open_artifact(OnnxModel, tmp_path / "out")
    files = payload_files(out.path)
    assert set(files) - set(payload_files(made[0].path)) == {CALIBRATION, "artifact.json"} - {"artifact.json"}
    assert (out.path / "model.onnx").read_bytes() == (made[0].path / "model.onnx").read_bytes()
    assert out.sidecar["calibration"] == found.digest
    assert found.outcome.fp32 == 1.0
    assert list(found.layers) == ["stem", "spread", "after_spread", "gate", "value", "classifier"]
    assert all(layer.error is not None and 0 < layer.amax <= layer.seen for layer in found.layers.values())
    assert found.source.weights == "a" * 64
    assert len(found.source.frames) == 6
    assert len(found.source.held_out) == 8
    assert {name.partition("/")[0] for name in found.source.held_out} == {"train", "val"}
    assert not set(found.source.frames) & set(found.source.held_out)


def test_the_int8_graph_of_a_calibration_runs(made: tuple[OnnxModel, Data], tmp_path: Path, small: Any) -> None:
    import onnx

    from edgesmith.pipeline.graphs.cpu import session
    from edgesmith.pipeline.graphs.precision import lowered

    found = calibrated(made, tmp_path / "out")
    graph = onnx.load(str(tmp_path / "out/model.onnx"))
    given = {"frame": small.frame(5)}
    labels = session(lowered(graph, "int8", found)).run(["labels"], given)[0]
    assert (labels == session(graph).run(["labels"], given)[0]).mean() > 0.95


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_two_calibrations_agree_to_the_bit(made: tuple[OnnxModel, Data], tmp_path: Path, method: str) -> None:
    calibrated(made, tmp_path / "a", method=method)
    calibrated(made, tmp_path / "b", method=method, workers=3)
    assert (tmp_path / "a" / CALIBRATION).read_bytes() == (tmp_path / "b" / CALIBRATION).read_bytes()


def test_each_method_has_ranges_of_its_own(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    settings = {"fallback": False, "limit_drop": 100.0}
    minmax = calibrated(made, tmp_path / "a", method="minmax", **settings).layers
    percentile = calibrated(made, tmp_path / "b", method="percentile", percentile=99.0, **settings).layers
    for name, layer in minmax.items():
        assert layer.clipped == 0
        assert layer.amax == layer.seen == percentile[name].seen
        assert percentile[name].amax <= layer.amax
    assert any(0 < layer.clipped <= 0.01 for layer in percentile.values())


def test_the_convolution_that_int8_ruins_is_held_back(ruined: tuple[OnnxModel, Data], tmp_path: Path, small: Any) -> None:
    found = calibrated(ruined, tmp_path / "out", method="minmax")
    worst = max(found.layers, key=lambda name: found.layers[name].error or 0)
    assert worst == small.RUINED
    assert found.layers[small.RUINED].held is not None
    assert "points of mIoU" in str(found.layers[small.RUINED].held)
    assert found.int8_share > 0.9
    assert found.outcome.drop + found.outcome.uncertainty <= 5.0


def test_without_fallback_it_is_refused_and_the_point_shown(ruined: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"best point found costs \d+\.\d+ .* points with 100\.0% of them"):
        calibrated(ruined, tmp_path / "out", method="minmax", fallback=False)
    assert not (tmp_path / "out").exists()


def test_another_limit_measures_nothing_again(ruined: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    model, data = ruined
    events: list[str] = []

    def calibrate(folder: Path, **settings: Any) -> None:
        stage = Calibrate(data, **{**SETTINGS, **settings})
        stage(model, Slot(folder, stage_key(stage, model), tmp_path / "scratch", lambda event, **_: events.append(event)))

    with pytest.raises(RuntimeError, match="best point found"):
        calibrate(tmp_path / "narrow", min_share=1.0)
    assert "progress" in events
    events.clear()
    calibrate(tmp_path / "wide")
    assert "progress" not in events


def test_a_share_that_cannot_be_kept_is_refused(ruined: tuple[OnnxModel, Data], tmp_path: Path, small: Any) -> None:
    with pytest.raises(RuntimeError, match=f"holds back .*{small.RUINED}"):
        calibrated(ruined, tmp_path / "out", method="minmax", min_share=1.0)


def test_without_val_frames_of_train_are_held_out(small: Any, tmp_path: Path) -> None:
    network = small.network()
    model = small.write_network(Slot(tmp_path / "onnx"), network)
    data = small.write_dataset(tmp_path / "data", network, train=8, val=0)
    found = calibrated((model, data), tmp_path / "out")
    assert len(found.source.held_out) == 2
    assert not set(found.source.frames) & set(found.source.held_out)
    with pytest.raises(ValueError, match="none is left to judge by"):
        calibrated((model, data), tmp_path / "all", frames=8)


def test_inputs_that_do_not_fit_are_refused(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes"):
        Calibrate(Data("street"))(made[0], Slot(tmp_path / "out"))
    changed = tmp_path / "changed"
    shutil.copytree(made[0].path, changed)
    (changed / "model.onnx").write_bytes(b"x")
    with pytest.raises(ValueError, match="was changed after it was written"):
        Calibrate(made[1])(OnnxModel(changed), Slot(tmp_path / "out"))
    with pytest.raises(ValueError, match="frames: 0 is not at least 1\nlimit_drop: nan"):
        Calibrate(made[1], frames=0, limit_drop=float("nan"))


def test_a_graph_that_is_changed_while_it_is_calibrated_is_refused(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    model = OnnxModel(Path(shutil.copytree(made[0].path, tmp_path / "onnx")))

    def log(event: str, **_: Any) -> None:
        if event == "int8":
            (model.path / "model.onnx").write_bytes(b"x")

    with pytest.raises(ValueError, match="onnx was changed while it was in use; make it again"):
        Calibrate(made[1], **SETTINGS)(model, Slot(tmp_path / "out", log=log))
    assert [p.name for p in tmp_path.iterdir()] == ["onnx"]


def test_a_calibration_is_replaced_by_the_next(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    calibrated(made, tmp_path / "first")
    again = calibrated((OnnxModel(tmp_path / "first"), made[1]), tmp_path / "second", method="minmax")
    assert again.method == "minmax"
    open_artifact(OnnxModel, tmp_path / "second")
    assert payload_files(tmp_path / "second") == payload_files(tmp_path / "first")


def test_the_key_follows_frames_and_settings(made: tuple[OnnxModel, Data], small: Any, tmp_path: Path) -> None:
    model, data = made
    key = stage_key(Calibrate(data), model)
    assert key == stage_key(Calibrate(data, workers=4), model)
    assert key != stage_key(Calibrate(data, method="entropy"), model)
    assert key != stage_key(Calibrate(data, seed=1), model)
    other = small.write_dataset(tmp_path / "data", small.network(), train=9)
    assert key != stage_key(Calibrate(other), model)


def test_frames_without_a_label_tell_nothing(small: Any, tmp_path: Path) -> None:
    network = small.network()
    model = small.write_network(Slot(tmp_path / "onnx"), network)
    data = small.write_dataset(tmp_path / "data", network, train=8, val=0)
    for path in (tmp_path / "data").rglob("masks/*.png"):
        cv2.imwrite(str(path), np.full((24, 32), 255, np.uint8))
    with pytest.raises(ValueError, match="no pixel of the frames held out is labelled"):
        calibrated((model, data), tmp_path / "out")


DRIVER = """
import json, sys
from pathlib import Path
from edgesmith.pipeline.artifacts import OnnxModel, Slot
from edgesmith.pipeline.calibrate import Calibrate
from edgesmith.pipeline.data.spec import Data
def log(event, **fields):
    print(json.dumps({"event": event}), flush=True)
    sys.stdin.readline()
settings = json.loads(sys.argv[4])
Calibrate(Data(sys.argv[2]), method="percentile", **settings)(
    OnnxModel(Path(sys.argv[1])), Slot(Path(sys.argv[3]), "key", Path(sys.argv[3] + ".resume"), log))
"""


def events_until(model: OnnxModel, data: Data, out: Path, kill: tuple[str, int] | None) -> list[str]:
    """Run the stage in a child, SIGKILL it at the n-th event of a name; the events that it logged."""
    command = [sys.executable, "-c", DRIVER, str(model.path), data.dataset, str(out), json.dumps(SETTINGS)]
    seen: list[str] = []
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in child.stdout:
            seen.append(json.loads(line)["event"])
            if kill is not None and seen.count(kill[0]) == kill[1] and seen[-1] == kill[0]:
                child.send_signal(signal.SIGKILL)
                break
            child.stdin.write("go on\n")
            child.stdin.flush()
        child.stdout.read()
    assert child.returncode == (0 if kill is None else -signal.SIGKILL)
    return seen


def test_a_killed_calibration_goes_on_where_it_was(ruined: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    model, data = ruined
    whole = events_until(model, data, tmp_path / "whole", None)
    for event, count in (("progress", 9), ("layer", 3), ("tried", 2)):
        events_until(model, data, tmp_path / "out", (event, count))
        assert not (tmp_path / "out").exists()
    last = events_until(model, data, tmp_path / "out", None)
    assert last.count("progress") < whole.count("progress") / 2
    assert (tmp_path / "out" / CALIBRATION).read_bytes() == (tmp_path / "whole" / CALIBRATION).read_bytes()


def test_the_verb_writes_shows_and_does_not_run_twice(made: tuple[OnnxModel, Data], tmp_path: Path) -> None:
    from edgesmith.pipeline.verbs.calibrate import calibrate

    model, data = made
    arguments = [str(model.path), "--data", data.dataset, "--out", str(tmp_path / "out"), "--method", "minmax", "--json"]
    arguments += ["--frames", "6", "--held-out", "8", "--limit-drop", "5", "--workers", "1"]
    first = CliRunner().invoke(calibrate, arguments, catch_exceptions=False)
    value = json.loads(first.stdout)
    assert value["method"] == "minmax"
    assert value["layers"][0]["name"] == "stem"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    written = (tmp_path / "out" / "artifact.json").stat().st_mtime_ns
    assert CliRunner().invoke(calibrate, arguments, catch_exceptions=False).stdout == first.stdout
    assert (tmp_path / "out" / "artifact.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="nothing was overwritten"):
        CliRunner().invoke(calibrate, [*arguments, "--seed", "1"], catch_exceptions=False)
    with pytest.raises(ValueError, match="leave @test out"):
        CliRunner().invoke(calibrate, [*arguments[:2], f"{data.dataset}@test", *arguments[3:]], catch_exceptions=False)


class Stripes:
    """Frames that show class 0; class 1 is in every tenth, class 2 in one of a hundred."""

    labels = LabelSet(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    digest = "stripes"

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Sample:
        label = np.zeros((4, 4), np.uint8)
        label[0] = 255
        if index % 10 == 3:
            label[1] = 1
        if index in (17, 90):
            label[2] = 2
        return Sample(str(index), np.zeros((4, 4, 3), np.uint8), label)


def test_frames_are_chosen_so_that_rare_classes_occur() -> None:
    chosen = stratified(Stripes(), 60, seed=0)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 60
    assert {17, 90} <= set(chosen)
    assert sum(index % 10 == 3 for index in chosen) > 15
    assert stratified(Stripes(), 60, seed=0) == chosen != stratified(Stripes(), 60, seed=1)
    assert stratified(Stripes(), 500, seed=0) == list(range(200))
    assert end_to_end(list(range(100)), 3) == [0, 50, 99]
    assert end_to_end([4, 9], 8) == [4, 9]
