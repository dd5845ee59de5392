from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgesmith import models
from edgesmith.models.model import Model, model_json
from edgesmith.pipeline.data.street import STREET, render
from edgesmith.pipeline.metrics import ConfusionMatrix
from edgesmith.pipeline.reports import html as report
from edgesmith.pipeline.reports.charts import heat_map, histogram, line_chart, ticks
from edgesmith.pipeline.reports.html import write_report
from edgesmith.pipeline.validate import distribution


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def make_run(folder: Path, hw: tuple[int, int] = (64, 96), frames: int = 2, names: tuple[str, ...] = STREET.names) -> Path:
    """A fake run: real frames and real counting, but a prediction, times and a history that are made up."""
    rng = np.random.default_rng(3)
    palette = STREET.palette
    model = Model(models.zoo("squeezenas-lat-small"), names, palette, (0.5,) * 3, (0.2,) * 3, "best.safetensors")
    miou = [0.21, 0.33, 0.38, 0.44, 0.47, 0.49, 0.52, 0.53, 0.538, 0.551, 0.547, 0.544]
    history = [
        {"epoch": i + 1, "loss": 1.9 * math.exp(-i / 3) + 0.38, "lr": 0.05 * (1 - i / 12) ** 0.9, "val_miou": m}
        for i, m in enumerate(miou)
    ]
    write(folder / "train" / "model.json", model_json(model))
    write(folder / "train" / "history.json", history)
    parity = {"max_abs_diff": 2.1e-5, "max_abs_logit": 14.2, "relative": 1.48e-6, "label_agreement": 0.999998}
    meta = {"frame_hw": hw, "input_hw": hw, "classes": names, "palette": palette, "precision": "fp32", "parity": parity}
    write(folder / "onnx" / "meta.json", meta)
    write(folder / "bundle" / "meta.json", meta)
    (folder / "bundle" / "model.onnx").write_bytes(bytes(1_934_112))
    confusion = _samples(folder / "validation" / "samples", hw, frames, rng)
    latency = {"decode": rng.gamma(9, 0.35, 64), "copy": rng.gamma(20, 0.006, 64), "engine": rng.gamma(60, 0.24, 64)}
    latency["total"] = latency["decode"] + latency["copy"] + latency["engine"]
    phases = {k: distribution(v.tolist()) for k, v in latency.items()}
    columns = zip(names, confusion.iou, confusion.accuracy, confusion.share, strict=True)
    numbers = [(n, *(None if math.isnan(x) else float(x) for x in rest)) for n, *rest in columns]
    validation = {
        "bundle": {"digest": "ab" * 32},
        "engine": {
            "key": "onnxruntime-fp32",
            "backend": "onnxruntime",
            "version": "1.31.0",
            "device": "CPU",
            "precision": "fp32",
        },
        "data": {"dataset": "street", "split": "test", "frames": 64, "digest": "cd" * 32},
        "frame_hw": hw,
        "input_hw": hw,
        "miou": confusion.miou,
        "pixel_accuracy": confusion.pixel_accuracy,
        "classes": [dict(zip(("name", "iou", "accuracy", "share"), row, strict=True)) for row in numbers],
        "confusion": confusion.counts.tolist(),
        "latency_ms": phases,
        "fps": round(1000 / phases["total"]["p50"], 2),
        "peak_memory_mb": 412.3,
        "agreement": {"frames": 64, "pixel_agreement": 0.999996, "torch_miou": confusion.miou + 2e-6, "source": "split"},
    }
    write(folder / "validation" / "validation.json", validation)
    for name in ("arch", "train", "onnx", "bundle", "validation"):
        sidecar = {"kind": name, "key": "k", "digest": name.encode().hex().ljust(64, "0"), "stage": name.title(), "version": 1}
        write(folder / name / "artifact.json", {**sidecar, "tools": {"numpy": "2"}, "written": "2025-05-01T10:00:00+0000"})
    recipe = "about: Train on the street, from scratch.  # <b>\ntrain:\n  epochs: 12\n  optim: {lr: 0.05}\n"
    write(folder / "recipe.yaml", recipe)
    write(
        folder / "environment.json", {"tools": {"python": "3.11.7"}, "processor": "A processor", "cores": 2, "memory_gb": 7.8}
    )
    events = [{"event": "run", "recipe": "street", "folder": "runs/my street"}, {"event": "epoch", "epoch": 1}]
    write(folder / "events.jsonl", "".join(json.dumps(e) + "\n" for e in events) + '{"event": "ru')
    return folder


def _samples(folder: Path, hw: tuple[int, int], frames: int, rng: np.random.Generator) -> ConfusionMatrix:
    folder.mkdir(parents=True)
    confusion = ConfusionMatrix(len(STREET.names))
    for i in range(frames):
        sample = render(0, i * 10, hw)
        # A plausible prediction: the labels, coarse and smeared, with some noise of other classes, nowhere void.
        small = cv2.resize(sample.label, (hw[1] // 6, hw[0] // 6), interpolation=cv2.INTER_NEAREST)
        noisy = rng.random(small.shape) < 0.04
        small[noisy] = rng.integers(0, len(STREET.names), noisy.sum())
        prediction = cv2.medianBlur(cv2.resize(small, hw[::-1], interpolation=cv2.INTER_NEAREST), 5)
        prediction[prediction >= len(STREET.names)] = 3
        confusion.add(sample.label, prediction)
        cv2.imwrite(str(folder / f"{i * 10:03d}.frame.jpg"), sample.frame[:, :, ::-1])
        cv2.imwrite(str(folder / f"{i * 10:03d}.label.png"), sample.label)
        cv2.imwrite(str(folder / f"{i * 10:03d}.prediction.png"), prediction)
    return confusion


class Parsed(HTMLParser):
    """What a browser would see: elements with attributes, text by section, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {k: v or "" for k, v in attrs}
        self.elements.append((tag, values))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = values["id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [values for name, values in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "street")
    write_report(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "street"))


def report_of(folder: Path) -> Parsed:
    return Parsed(write_report(folder).read_text())


def validation(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "validation" / "validation.json").read_text()))


def test_every_section_is_there_and_none_is_damaged(made: Path) -> None:
    page = Parsed((made / "report.html").read_text())
    assert [s["id"] for s in page.all("section")] == [anchor for anchor, _, _ in report.SECTIONS]
    assert not any("could not be made" in text for text in page.text.values())
    assert {a["href"] for a in page.all("a")} == {f"#{anchor}" for anchor, _, _ in report.SECTIONS}


def test_the_headline_says_the_numbers_with_their_units(made: Path) -> None:
    said = Parsed((made / "report.html").read_text()).text["result"]
    v = validation(made)
    assert f"{100 * v['miou']:.1f} %" in said
    assert f"{v['latency_ms']['total']['p50']:.1f} ms p50" in said
    assert f"{v['fps']:.1f} FPS" in said
    for words in ("1.93 MB", "0.46 M", "GMACs", "412 MB", "onnxruntime 1.31.0 (fp32), on CPU", "street, split test", "64x96"):
        assert words in said, words


def test_nothing_is_loaded_from_anywhere(made: Path) -> None:
    text = (made / "report.html").read_text()
    page = Parsed(text)
    for tag, values in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in values.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "poster", "data", "xlink:href"):
                assert value.startswith(("#", "data:image/")), value
            assert not re.search(r"url\((?!#)", value)
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\"'\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert len(text) < 3_000_000


def test_pictures_have_words_for_those_who_do_not_see_them(made: Path) -> None:
    page = Parsed((made / "report.html").read_text())
    assert all(i["alt"] for i in page.all("img"))
    assert all(s["role"] == "img" and s["aria-label"] for s in page.all("svg"))


def test_best_and_last_epoch_are_both_named(made: Path) -> None:
    said = Parsed((made / "report.html").read_text()).text["training"]
    assert re.search(r"best epoch 10: 55\.1", said)
    assert re.search(r"last epoch 12: 54\.4", said)


def test_the_same_files_give_the_same_bytes(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_names_from_files_stay_text(run: Path) -> None:
    hostile = "<script>alert('x')</script>"
    for file in ("train/model.json", "validation/validation.json", "onnx/meta.json"):
        path = run / file
        path.write_text(path.read_text().replace("Building", hostile).replace("squeezenas-lat-small", hostile + "&'"))
    write(run / "environment.json", {"processor": hostile, "tools": {hostile: hostile}})
    write(run / "recipe.yaml", f"about: {hostile}\n{hostile}: 1\n")
    write(run / "events.jsonl", json.dumps({"event": "run", "recipe": hostile, "folder": f'"><{hostile}'}) + "\n")
    v = validation(run)
    v["engine"]["device"] = v["data"]["dataset"] = hostile
    write(run / "validation" / "validation.json", v)
    page = report_of(run)
    assert page.all("script") == []
    for anchor in ("result", "network", "classes", "confusion", "frames", "reproduce", "provenance"):
        assert hostile in page.text[anchor], anchor
        assert "could not be made" not in page.text[anchor], anchor


def test_text_that_cannot_be_encoded_does_not_stop_the_report(run: Path) -> None:
    path = run / "validation" / "validation.json"
    path.write_text(path.read_text().replace("Building", "Buil\\ud800\\u0000ding"))
    assert "Buil  ding" in report_of(run).text["classes"]


@pytest.mark.parametrize(
    ("missing", "section", "words"),
    [
        ("train", "network", "No network yet"),
        ("train", "training", "Not trained yet"),
        ("train/history.json", "training", "imported, not trained"),
        ("validation", "result", "Not validated yet"),
        ("validation", "latency", "Not validated yet"),
        ("validation", "frames", "no sample frames"),
        ("validation/samples", "frames", "no sample frames"),
        ("recipe.yaml", "reproduce", "no recipe.yaml"),
        ("environment.json", "provenance", "numpy"),
        ("bundle", "provenance", "not made"),
    ],
)
def test_what_is_missing_is_said_in_words(run: Path, missing: str, section: str, words: str) -> None:
    if (run / missing).is_dir():
        shutil.rmtree(run / missing)
    else:
        (run / missing).unlink()
    page = report_of(run)
    assert words in page.text[section]
    assert not any("could not be made" in text for text in page.text.values())


def test_an_empty_run_folder_still_has_a_report(tmp_path: Path) -> None:
    page = report_of(tmp_path)
    assert len(page.all("section")) == len(report.SECTIONS)
    assert not any("could not be made" in text for text in page.text.values())


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report(tmp_path / "nowhere")


def test_a_damaged_file_costs_only_its_sections_and_is_named(run: Path) -> None:
    (run / "train" / "history.json").write_text('[{"epoch": 1,')
    page = report_of(run)
    assert "history.json is not JSON" in page.text["training"]
    assert "mean" in page.text["latency"]


@pytest.mark.parametrize("value", ["[]", "{}", "3", '{"classes": 5, "latency_ms": [], "miou": "much"}'])
def test_a_validation_of_the_wrong_shape_never_stops_the_report(run: Path, value: str) -> None:
    (run / "validation" / "validation.json").write_text(value)
    assert len(report_of(run).all("section")) == len(report.SECTIONS)


def test_an_unreadable_sample_is_named(run: Path) -> None:
    path = next((run / "validation" / "samples").glob("*.label.png"))
    path.write_bytes(path.read_bytes()[:40])
    assert path.name in report_of(run).text["frames"]


def test_a_class_that_never_occurs_has_no_bar_and_no_number(run: Path) -> None:
    v = validation(run)
    v["classes"][0].update(iou=None, accuracy=None, share=0.0)
    write(run / "validation" / "validation.json", v)
    page = report_of(run)
    assert "not in this split" in page.text["classes"]
    assert re.search(r"over \d+ of 11 classes", page.text["result"])


def test_a_training_without_validation_and_with_one_epoch_is_drawn(run: Path) -> None:
    write(run / "train" / "history.json", [{"epoch": 1, "loss": 1.5, "lr": 0.1, "val_miou": None}])
    said = report_of(run).text["training"]
    assert "last epoch 1" in said
    assert "No epoch was validated" in said


def test_large_frames_are_shrunk_so_that_the_page_stays_small(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "large", hw=(720, 960), frames=6)
    assert write_report(folder).stat().st_size < 3_000_000


def test_commands_are_quoted_for_the_shell(made: Path) -> None:
    said = Parsed((made / "report.html").read_text()).text["reproduce"]
    assert "edgesmith run street --out 'runs/my street'" in said
    assert "edgesmith verify 'runs/my street/bundle'" in said
    assert "edgesmith validate 'runs/my street/bundle' --data street@test --weights 'runs/my street/train'" in said


def test_the_report_is_written_without_torch(made: Path) -> None:
    code = (
        "import sys, pathlib; from edgesmith.pipeline.reports.html import write_report; "
        f"write_report(pathlib.Path({str(made)!r})); assert not {{'torch', 'matplotlib', 'onnx'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.213, 0.551), (3, 3), (0, 0), (1e-7, 3e-7), (12.5, 90000), (-2, 5)])
def test_ticks_are_round_even_and_cover_the_range(low: float, high: float) -> None:
    at = ticks(low, high)
    assert at[0] <= low + 1e-9
    assert at[-1] >= high - 1e-9
    assert 2 <= len(at) <= 9
    steps = np.diff(at)
    assert np.allclose(steps, steps[0])


def test_a_histogram_counts_every_sample_once() -> None:
    samples = [3.0, 3.0, 3.5, 9.99, 10.0, *np.linspace(3, 10, 60).tolist()]
    svg = histogram(samples, [("p50", 5.0)], "time", "ms")
    assert sum(int(n) for n in re.findall(r": (\d+) frames", svg)) == len(samples)


def test_charts_take_equal_and_unfinite_values() -> None:
    assert "<svg" in histogram([5.0], [("p50", 5.0)], "time", "ms")
    assert histogram([], [], "time", "ms") == ""
    svg = line_chart([(1, math.nan), (2, 1.0), (3, 1.0)], "epoch", "loss", [("best", 0), ("last", 2)])
    assert "nan" not in svg


def test_a_confusion_matrix_shows_each_cell_of_a_class_that_occurs() -> None:
    svg = heat_map([[9, 1], [0, 0]], ["road", "sky"])
    assert svg.count("<title>") == 2
    assert "truth road, prediction sky: 10.00" in svg
    with pytest.raises(ValueError, match="2 rows of 2"):
        heat_map([[1, 2, 3], [4, 5, 6]], ["road", "sky"])
