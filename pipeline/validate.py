"""BundleFolder -> Validation: what a bundle's engine does to a labelled split. Needs no torch.

The engine in the bundle runs, never the torch network; torch is a yardstick beside it where it is asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import math
import platform
import re
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgesmith.deploy.bundle import Bundle, check_golden
from edgesmith.deploy.engines import BACKENDS, PRECISIONS, Backend, Engine, Precision
from edgesmith.deploy.files import write_json
from edgesmith.pipeline.artifacts import BundleFolder, Slot, Validation, Weights, open_artifact, open_weights_of
from edgesmith.pipeline.data.choose import end_to_end
from edgesmith.pipeline.data.dataset import Sample, Split
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.events import Log
from edgesmith.pipeline.frames import Frames, label_table
from edgesmith.pipeline.metrics import ConfusionMatrix, or_none

PHASES = ("decode", "copy", "engine", "total")
SHOWN = 6
"""Frames that are kept with truth and prediction, for the report."""


@dataclass(frozen=True)
class Validate:
    """BundleFolder -> Validation: accuracy, latency, memory and agreement with torch of the bundle's engine.

    A frame of another size than the engine's is resized (bilinear) before the engine, and its label map is resized
    (nearest) to the label's size before the metric, so that every labelled pixel counts once and no label is invented.
    """

    data: Data | None = field(default=None, metadata={"identity": False})
    """Dataset; the recipe's own unless said otherwise. Its classes must be the bundle's, by name."""
    split: str = "test"
    """Split to validate on."""
    limit: int | None = None
    """Use only this many frames, the first; null for all."""
    warmup: int = 5
    """Runs of the engine before the first frame that is timed."""
    backend: Backend | None = None
    """Which of the bundle's engines; null for the one that needs least of the machine: ONNX Runtime's if built."""
    precision: Precision | None = None
    """And of which precision; null for the first of fp32, fp16 and int8 that was built."""
    weights: str | None = field(default=None, metadata={"identity": False})
    """Weights folder that the bundle was exported from: torch labels the same frames, for comparison (needs torch). Null to
    compare on the golden frames alone. Enters the key by content (see `environment`)."""
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        problems = []
        if not self.split:
            problems.append("split: is empty; needs the name of a split")
        if self.limit is not None and self.limit < 1:
            problems.append(f"limit: {self.limit} is not at least 1")
        if not 0 <= self.warmup <= 10_000:
            problems.append(f"warmup: {self.warmup} is not between 0 and 10000")
        if self.backend is not None and self.backend not in BACKENDS:
            problems.append(f"backend: {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.precision is not None and self.precision not in PRECISIONS:
            problems.append(f"precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and bundle: the frames, this device, the engine's version."""
        from edgesmith.deploy.engines.onnxruntime import processor
        from edgesmith.pipeline.build import installed_version

        versions: dict[str, str] = {b: installed_version(b) for b in BACKENDS}
        weights = {} if self.weights is None else {"weights": open_artifact(Weights, Path(self.weights)).digest}
        return {"data": self._open().digest, "device": processor(), "machine": platform.machine(), **versions, **weights}

    def __call__(self, given: BundleFolder, slot: Slot) -> Validation:
        """Validate the bundle into `slot`; the bundle stays as it is.

        Raises ValueError when the bundle is damaged, has not the dataset's classes, lacks the engine or was not made from
        `weights`, ImportError when the backend (or torch, with `weights`) is not installed, RuntimeError when the engine
        cannot run here.
        """
        bundle = Bundle.open(given.path)
        bundle.verify()
        split = self._open()
        if not len(split):
            raise ValueError(f"split {self.split!r} has no frames to validate on")
        table = label_table(split.labels.names, bundle.meta.classes)
        frames = Frames(split, min(len(split), self.limit or len(split)), bundle.meta, table)
        weights = None if self.weights is None else open_weights_of(bundle.folder, Path(self.weights))
        if weights is not None and importlib.util.find_spec("torch") is None:
            raise ImportError("weights: comparing with torch needs torch: pip install 'edgesmith[host]', or leave weights out")
        with bundle.engine(self.backend, self.precision) as engine:
            measured = _measure(engine, frames, self.warmup, slot.log)
            if weights is None:
                agreement = _agreement_on_golden(bundle, engine)
            else:
                agreement = _agreement_on_split(weights, engine, frames, slot.log)
        result = {
            "bundle": {"digest": given.digest},
            "engine": {name: getattr(engine, name) for name in ("key", "backend", "version", "device", "precision")},
            "data": {"dataset": self._data.dataset, "split": self.split, "frames": frames.count, "digest": split.digest},
            "frame_hw": list(bundle.meta.frame_hw),
            "input_hw": list(bundle.meta.input_hw),
            **_accuracy(measured.confusion, bundle.meta.classes),
            **_speed(measured.latency_ms),
            "peak_memory_mb": round(measured.peak_memory_mb, 1),
            "agreement": agreement,
        }
        with slot.writing(Validation, parents=[given], device=engine.device) as folder:
            write_json(folder / "validation.json", result)
            for index, (sample, labels) in measured.shown.items():
                truth = sample.label if table is None else table[sample.label]
                _write_sample(folder / "samples", f"{index:03d}", sample._replace(label=truth), labels)
        slot.log("validated", miou=result["miou"], fps=result["fps"], pixel_agreement=agreement["pixel_agreement"])
        return Validation(slot.out)

    @property
    def _data(self) -> Data:
        if self.data is None:
            raise ValueError("data: is not given; name the dataset to validate on")
        return self.data

    def _open(self) -> Split:
        return open_split(self._data, self.split)


@dataclass
class _Measured:
    confusion: ConfusionMatrix
    latency_ms: dict[str, list[float]] = field(default_factory=lambda: {phase: [] for phase in PHASES})
    peak_memory_mb: float = 0.0
    shown: dict[int, tuple[Sample, NDArray[np.uint8]]] = field(default_factory=dict)
    """Index -> a sample with what the engine said; a few, evenly spread over the split."""


def _measure(engine: Engine, frames: Frames, warmup: int, log: Log) -> _Measured:
    """One pass over the frames. What is timed is a frame's way from the dataset to its label map; scoring it is not.

    decode: reading the sample, its label included, because a split gives both (drawing, for a procedural dataset; next to
    nothing where the split has it in memory). copy: resizing where sizes differ, colour order, into the input buffer.
    engine: `infer`. total: the three together, one clock from first to last.
    """
    measured = _Measured(ConfusionMatrix(len(frames.meta.classes)))
    buffer = frames.buffer()
    _reset_peak_memory()
    if warmup:
        frames.arrange(frames.split[0].frame, buffer)
    for _ in range(warmup):
        engine.infer(buffer)
    chosen = end_to_end(list(range(frames.count)), SHOWN)
    for index in range(frames.count):
        start = time.perf_counter()
        sample = frames.split[index]
        decoded = time.perf_counter()
        frames.arrange(sample.frame, buffer)
        copied = time.perf_counter()
        labels = engine.infer(buffer)
        end = time.perf_counter()
        for phase, seconds in zip(PHASES, (decoded - start, copied - decoded, end - copied, end - start), strict=True):
            measured.latency_ms[phase].append(seconds * 1e3)
        frames.score(measured.confusion, sample, labels)
        if index in chosen:
            measured.shown[index] = sample, labels.copy()
        log("progress", done=index + 1, total=frames.count)
    measured.peak_memory_mb = _peak_memory_mb()
    return measured


def _write_sample(folder: Path, name: str, sample: Sample, prediction: NDArray[np.uint8]) -> None:
    """NAME.frame.jpg, NAME.label.png and NAME.prediction.png; the latter two hold the bundle's class indices."""
    import cv2

    folder.mkdir(exist_ok=True)
    images = {
        ".frame.jpg": cv2.cvtColor(sample.frame, cv2.COLOR_RGB2BGR),
        ".label.png": sample.label,
        ".prediction.png": prediction,
    }
    for end, pixels in images.items():
        _, data = cv2.imencode(end[-4:], pixels)
        (folder / f"{name}{end}").write_bytes(data.tobytes())


def _agreement_on_split(weights: Weights, engine: Engine, frames: Frames, log: Log) -> dict[str, Any]:
    """A second pass with torch beside the engine, apart from the first so that neither its time nor its memory is in there."""
    from edgesmith import models
    from edgesmith.pipeline.reference import labels_by_torch

    meta = frames.meta
    module = models.load(weights.path)
    confusion = ConfusionMatrix(len(meta.classes))
    buffer = frames.buffer()
    agreement = 0.0
    for index in range(frames.count):
        sample = frames.split[index]
        by_torch = labels_by_torch(module, frames.fit(sample.frame), meta.mean, meta.std, meta.input_hw)
        frames.arrange(sample.frame, buffer)
        agreement += float(np.mean(engine.infer(buffer) == by_torch))
        frames.score(confusion, sample, by_torch)
        log("progress", done=index + 1, total=frames.count)
    return {
        "frames": frames.count,
        "pixel_agreement": agreement / frames.count,
        "torch_miou": or_none(confusion.miou),
        "source": "split",
    }


def _agreement_on_golden(bundle: Bundle, engine: Engine) -> dict[str, Any]:
    golden = check_golden(bundle, engine)
    return {"frames": golden.frames, "pixel_agreement": golden.agreement, "torch_miou": None, "source": "golden"}


def _accuracy(confusion: ConfusionMatrix, names: tuple[str, ...]) -> dict[str, Any]:
    columns = zip(names, confusion.iou, confusion.accuracy, confusion.share, strict=True)
    return {
        "miou": or_none(confusion.miou),
        "pixel_accuracy": or_none(confusion.pixel_accuracy),
        "classes": [
            {"name": name, "iou": or_none(iou), "accuracy": or_none(accuracy), "share": or_none(share)}
            for name, iou, accuracy, share in columns
        ],
        "confusion": confusion.counts.tolist(),
    }


def _speed(latency_ms: dict[str, list[float]]) -> dict[str, Any]:
    """`latency_ms` of validation.json, and `fps`: 1000 / median of copy + engine, one frame after the other.

    What brings the frame is not in `fps`: a camera delivers it, a file is decoded, a procedural dataset draws it.
    """
    latency = {phase: distribution(samples) for phase, samples in latency_ms.items()}
    labelled = distribution([c + e for c, e in zip(latency_ms["copy"], latency_ms["engine"], strict=True)])
    return {"latency_ms": latency, "fps": round(1000 / labelled["p50"], 2)}


def distribution(samples: list[float]) -> dict[str, Any]:
    """p50, p90, p99 by nearest rank (always a sample that was measured, never between two), mean, count, and the samples."""
    ordered = sorted(samples)
    ranks = {f"p{p}": round(ordered[math.ceil(p / 100 * len(ordered)) - 1], 4) for p in (50, 90, 99)}
    mean = round(math.fsum(samples) / len(samples), 4)
    return {**ranks, "mean": mean, "n": len(samples), "samples": [round(s, 4) for s in samples]}


def _reset_peak_memory() -> None:
    """Begin the peak anew; what a training earlier in this process freed goes back to the system first. Linux only."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc keeps freed memory until it is asked to give it back
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    """Peak resident memory of this whole process since the last reset, in 10^6 bytes.

    That is the interpreter, every library that is loaded (torch too, in a run that trained), the engine and the frames at
    hand; not what was freed before the reset. Where there is no /proc, the peak since the process began.
    """
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
