from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from edgesmith import models
from edgesmith.deploy import bundle as bundles
from edgesmith.deploy.engines import Engine
from edgesmith.deploy.files import read_json
from edgesmith.pipeline import cli, recipe
from edgesmith.pipeline.build import Build
from edgesmith.pipeline.building.bundle_add import add_engines


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["edgesmith", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


GROUPS = {name: sorted(v.commands) for name, v in cli.cli.commands.items() if isinstance(v, click.Group)}


NESTED = [(group, verb) for group, verbs in GROUPS.items() for verb in verbs]


@pytest.mark.parametrize("verb", [(), *((v,) for v in sorted(cli.cli.commands)), *NESTED])
def test_every_verb_explains_itself_and_takes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: tuple[str, ...]
) -> None:
    code, out, _ = call(monkeypatch, capsys, *verb, "--help")
    assert code == 0
    assert len(out) > 180
    if len(verb) == 2 or (verb and verb[0] not in GROUPS):
        assert "--json" in out


def test_the_help_of_run_names_every_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(monkeypatch, capsys, "run", "--help")
    assert "search" in out
    assert all(name in " ".join(out.split()) for name in recipe.names())


def test_a_run_can_be_shown_verified_and_validated_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_run: Path
) -> None:
    def result(*arguments: object) -> dict[str, Any]:
        code, out, err = call(monkeypatch, capsys, *arguments, "--json")
        assert code == 0, err
        return json.loads(out)  # type: ignore[no-any-return]

    assert result("show", tiny_run)["bundle"]["kind"] == "bundle"
    assert result("show", tiny_run / "train")["params"] == 464542
    assert result("verify", tiny_run / "bundle")["golden"] == "pass"
    validation = result("validate", tiny_run / "bundle", "--data", "street", "--limit", 2)
    assert validation["data"]["frames"] == 2
    assert set(validation["latency_ms"]) == {"decode", "copy", "engine", "total"}


def test_an_architectures_file_is_shown_and_other_verbs_say_what_to_do_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file, arch = tmp_path / "teacher.json", models.zoo("fasterseg-student")
    file.write_text(json.dumps(arch.to_json()))
    code, out, err = call(monkeypatch, capsys, "show", file, "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert (shown["name"], shown["family"], shown["arch_digest"]) == (arch.name, "fasterseg", arch.digest)
    assert (shown["params"], shown["gmacs_at_360x480"]) == (3_421_875, pytest.approx(2.271, abs=0.001))
    for arguments, said in (
        (("export", file, "--out", tmp_path / "x"), f"edgesmith run RECIPE --set derive.arch={file}"),
        (("zoo", file), f"edgesmith show {file}"),
    ):
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert (code, said in err) == (2, True), err
    for text in ('{"family": []}', "[1]", "no JSON"):
        file.write_text(text)
        code, _, err = call(monkeypatch, capsys, "show", file)
        assert (code, f"{file} is a file, and holds no architecture" in err) == (2, True), err


def test_a_second_run_does_nothing_again(tiny_recipe: Path, tiny_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgesmith.pipeline.cli", "run", str(tiny_recipe), "--out", str(tiny_run), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("up to date") == 5
    assert "start" not in done.stderr
    assert json.loads(done.stdout)["report"].endswith("report.html")


def test_a_dry_run_prints_the_resolved_recipe_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_recipe: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "x", "--dry-run", "--set", "train.optim.lr=0.5")
    code, out, _ = call(monkeypatch, capsys, "run", tiny_recipe, *options)
    assert code == 0
    assert "lr: 0.5" in out
    assert "optimizer: sgd" in out
    assert not (tmp_path / "x").exists()


def test_a_published_network_exports_at_another_input_size_and_builds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    onnx, bundle = tmp_path / "onnx", tmp_path / "bundle"
    sizes = ["--frame", "120x160", "--input", "96x128"]
    code, _, err = call(monkeypatch, capsys, "export", "zoo:squeezenas-mac-small", *sizes, "--out", onnx)
    assert code == 0, err
    code, out, err = call(monkeypatch, capsys, "build", onnx, "--out", bundle, "--json")
    assert code == 0, err
    assert json.loads(out)["input_hw"] == [96, 128]
    code, out, _ = call(monkeypatch, capsys, "verify", bundle)
    assert code == 0
    assert "pass" in out
    # The same command again finds its result; another one does not replace it.
    before = (onnx / "artifact.json").read_bytes()
    code, _, err = call(monkeypatch, capsys, "export", "zoo:squeezenas-mac-small", *sizes, "--out", onnx)
    assert code == 0, err
    assert f"{onnx} is up to date; nothing was done" in err
    code, _, err = call(monkeypatch, capsys, "export", "zoo:squeezenas-lat-small", *sizes, "--out", onnx)
    assert code == 2
    assert "nothing was overwritten" in err
    assert (onnx / "artifact.json").read_bytes() == before


def test_validate_measures_anew_what_it_measured_before_and_replaces_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path
) -> None:
    given = ["validate", tiny_run / "bundle", "--data", "street", "--out", tmp_path / "v"]
    times = []
    for _ in range(2):
        code, out, err = call(monkeypatch, capsys, *given, "--limit", 2, "--json")
        assert code == 0, err
        assert json.loads(out) == read_json(tmp_path / "v" / "validation.json")
        times.append(json.loads(out)["latency_ms"]["engine"]["mean"])
    assert times[0] != times[1]
    code, _, err = call(monkeypatch, capsys, *given, "--limit", 1)
    assert code == 2
    assert "nothing was overwritten" in err
    assert read_json(tmp_path / "v" / "validation.json")["latency_ms"]["engine"]["mean"] == times[1]


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A description of three frames to train on and one to validate on, all of class road."""
    import cv2
    import numpy as np

    names = {"train": "abc", "val": "d"}
    for split, stems in names.items():
        for i, stem in enumerate(stems):
            for kind, shape, value in (("i", (8, 12, 3), i + len(split)), ("m", (8, 12), 0)):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / kind / split / f"{stem}.png"), np.full(shape, value, np.uint8))
    splits = "".join(f"  {s}: {{images: 'i/{s}/{{stem}}.png', masks: 'm/{s}/{{stem}}.png'}}\n" for s in names)
    file = tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nclasses: [{{name: road, colour: [9, 9, 9]}}]\nsplits:\n{splits}")
    return file


def test_a_contact_sheet_is_drawn_again_and_over_no_other_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], described: Path, tmp_path: Path
) -> None:
    sheet, notes = tmp_path / "sheet.png", tmp_path / "notes.png"
    for _ in range(2):
        code, _, err = call(monkeypatch, capsys, "data", "show", described, "--out", sheet)
        assert code == 0, err
    assert sheet.read_bytes().startswith(b"\x89PNG")
    notes.write_text("mine")
    for out, said in ((notes, "exists and is no PNG"), (tmp_path, "is a folder; name a file in it")):
        code, _, err = call(monkeypatch, capsys, "data", "show", described, "--out", out)
        assert (code, f"--out: {out} {said}" in err) == (2, True)
    assert notes.read_text() == "mine"


def test_a_check_of_one_split_prints_that_split(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], described: Path
) -> None:
    code, out, _ = call(monkeypatch, capsys, "data", "check", f"{described}@val")
    assert (code, out.splitlines()) == (0, ["val: 1 frames; road 100.00%, void 0.00%", "0 problems"])
    (described.parent / "m/train/a.png").write_bytes(b"no image")
    code, out, _ = call(monkeypatch, capsys, "data", "check", described)
    assert (code, out.splitlines()[1].partition(";")[0]) == (2, "train: 2 of 3 frames")


def test_what_lies_beside_the_out_folder_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path
) -> None:
    for name in (".bundle.mine.tmp", ".bundle.mine.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.jpg").write_bytes(b"dear")
    code, _, err = call(monkeypatch, capsys, "build", tiny_run / "onnx", "--out", tmp_path / "bundle")
    assert code == 0, err
    assert len(list(tmp_path.glob(".bundle.mine.*/photo.jpg"))) == 2


def test_a_bundle_without_the_pipelines_sidecar_is_verified_and_validated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("artifact.json"))
    for verb in (["verify"], ["show"], ["validate", "--data", "street", "--limit", 1]):
        code, _, err = call(monkeypatch, capsys, verb[0], tmp_path / "bundle", *verb[1:])
        assert code == 0, err


def test_a_whole_bundle_that_cannot_run_here_is_inconclusive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_run: Path
) -> None:
    def absent() -> None:
        raise ImportError("backend 'onnxruntime' is not installed: pip install 'edgesmith[cpu]'")

    monkeypatch.setattr("edgesmith.deploy.engines.onnxruntime.library", absent)
    code, out, _ = call(monkeypatch, capsys, "verify", tiny_run / "bundle")
    assert code == 3
    assert "inconclusive" in out


@pytest.fixture
def two_engines(bundle_folder: Path, tmp_path: Path) -> Path:
    """A bundle with engines of fp32 and fp16."""
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    add_engines(folder, Build(precision="fp16"), lambda event, **fields: None)
    return folder


def refuse(monkeypatch: pytest.MonkeyPatch, *precisions: str) -> None:
    """Engines of these precisions do not run here."""
    opened = bundles.open_engine

    def open_engine(backend: str, graph: Path, folder: Path | None, hw: tuple[int, int], precision: str) -> Engine:
        if precision in precisions:
            raise RuntimeError(f"no {precision} here")
        return opened(backend, graph, folder, hw, precision)

    monkeypatch.setattr(bundles, "open_engine", open_engine)


def test_verify_takes_the_first_engine_that_runs_and_names_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], two_engines: Path
) -> None:
    def verified(*options: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = call(monkeypatch, capsys, "verify", two_engines, *options, "--json")
        return code, json.loads(out)

    code, said = verified()
    assert (code, said["engine"], said["golden"], "not_run" in said) == (0, "onnxruntime-cpu-fp32", "pass", False)
    refuse(monkeypatch, "fp32")
    code, said = verified()
    assert (code, said["engine"], said["golden"]) == (0, "onnxruntime-cpu-fp16", "pass")
    assert said["not_run"] == {"onnxruntime-cpu-fp32": "no fp32 here"}
    code, said = verified("--precision", "fp32")
    assert (code, said["not_run"]) == (3, {"onnxruntime-cpu-fp32": "no fp32 here"})
    refuse(monkeypatch, "fp16")
    code, said = verified()
    assert (code, said["golden"]) == (3, "inconclusive: no engine runs here")
    assert said["not_run"] == {"onnxruntime-cpu-fp32": "no fp32 here", "onnxruntime-cpu-fp16": "no fp16 here"}


def test_verify_and_validate_run_the_engine_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], two_engines: Path, tiny_run: Path
) -> None:
    named = ("--backend", "onnxruntime", "--precision", "fp16")
    code, out, _ = call(monkeypatch, capsys, "verify", two_engines, *named, "--json")
    assert (code, json.loads(out)["engine"]) == (0, "onnxruntime-cpu-fp16")
    for missing in (("--backend", "tensorrt"), ("--precision", "int8")):
        code, _, err = call(monkeypatch, capsys, "verify", two_engines, *missing)
        assert code == 2
        assert "it has: onnxruntime fp16, onnxruntime fp32" in err
    folder = Path(shutil.copytree(tiny_run / "bundle", two_engines.parent / "street"))
    add_engines(folder, Build(precision="fp16"), lambda event, **fields: None)
    code, out, err = call(monkeypatch, capsys, "validate", folder, "--data", "street", "--limit", 1, *named, "--json")
    assert code == 0, err
    assert json.loads(out)["engine"]["precision"] == "fp16"


def test_imported_weights_label_the_sample_frames(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared: Path, tmp_path: Path
) -> None:
    """Non-void pixel accuracy of the imported mac_small on real Cityscapes frames.

    The second shows road works behind fences, where the authors' network itself is no better: its outputs are ours (see
    tests/models/test_squeezenas.py), and so are its mistakes.
    """
    import cv2
    import numpy as np

    from edgesmith import models
    from edgesmith.models.model import read_model
    from edgesmith.pipeline.reference import labels_by_torch

    file = shared / "weights/squeezenas/mac_small.pth"
    code, _, err = call(monkeypatch, capsys, "weights", "import", "squeezenas", file, "--out", tmp_path / "w")
    assert code == 0, err
    module, model = models.load(tmp_path / "w"), read_model(tmp_path / "w")
    images = sorted((shared / "data/format_samples/cityscapes").glob("leftImg8bit/val/*/*.png"))
    assert len(images) == 3
    for image, expected in zip(images, (0.969, 0.846, 0.970), strict=True):
        mask = image.parents[3] / "gtFine/val" / image.parent.name / image.name.replace("leftImg8bit", "gtFine_labelTrainIds")
        truth = cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)
        frame = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        labels = labels_by_torch(module, frame, model.mean, model.std)
        counted = truth != 255
        assert np.mean(labels[counted] == truth[counted]) == pytest.approx(expected, abs=0.002), image.name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "nowhere"], "nowhere"),
        (["show", "nowhere"], "nowhere"),
        (["run", "sreet"], "did you mean 'street'"),
        (["export", "zoo:nothing", "--out", "x"], "nothing"),
        (["export", "zoo:squeezenas-mac-small", "--frame", "big", "--out", "x"], "360x480"),
        (["data", "check", "camvd"], "camvd"),
        (["data", "show", "camvid:/nowhere"], "/nowhere"),
        (["weights", "import", "squeezenas", "nowhere.pth", "--out", "x"], "nowhere.pth"),
        (["validate", "nowhere", "--data", "street"], "nowhere"),
        (["no-such-verb"], "no-such-verb"),
        (["data", "show", "my.yaml"], "dataset: my.yaml is not in "),
        (["table", "measure", "no.json", "--input", "64x64", "--out", "t.json"], "SPACE: no.json is not in "),
        (["table", "measure", "small", "--input", "64x64", "--out", "/etc/passwd/t.json"], "/etc/passwd is a file"),
        (["table", "sum", "zoo:squeezenas-lat-small", "--table", "t.json"], "--table: t.json is not in "),
        (["export", "zoo:squeezenas-mac-small", "--out", "/etc/passwd/x"], "--out: /etc/passwd/x can not lie there"),
        (["weights", "import", "squeezenas", "/etc", "--out", "x"], "/etc is a folder; name the state dict"),
        (["weights", "import", "squeezenas", "empty", "--out", "x"], "weights_only=True: EOFError"),
        (["weights", "import", "squeezenas", "text", "--out", "x"], "weights_only=True: "),
    ],
)
def test_wrong_arguments_end_with_code_2_and_words(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("root:x:0:0")
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert said in err
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "text"}
