"""OnnxModel -> BundleFolder: add engines and a manifest to the graph. Runs without torch, on the host or on the device."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from edgesmith.deploy import bundle as bundles
from edgesmith.deploy.bundle import Bundle, check_golden, graph_name, write_manifest
from edgesmith.deploy.engines import BACKENDS, Backend
from edgesmith.deploy.engines.gpu import current_gpu
from edgesmith.deploy.engines.onnxruntime import processor
from edgesmith.deploy.engines.tensorrt import RTX_COMPUTE_CAPABILITIES
from edgesmith.deploy.engines.tensorrt_options import DEFAULTS, PlanOptions
from edgesmith.deploy.files import sha256_file, write_bytes, write_json
from edgesmith.deploy.meta import EngineRecord
from edgesmith.deploy.plugins import our_library, source_digest, twin
from edgesmith.pipeline.artifacts import BundleFolder, OnnxModel, Slot, Weights, open_artifact, open_weights_of
from edgesmith.pipeline.events import Log

BuildPrecision = Literal["fp32", "fp16", "int8", "best"]
BUILD_PRECISIONS: tuple[BuildPrecision, ...] = get_args(BuildPrecision)
Plugins = Literal["none", "auto"]

_DISTRIBUTIONS: dict[Backend, str] = {
    "onnxruntime": "onnxruntime",
    "tensorrt_rtx": "tensorrt-rtx",
    "tensorrt": "tensorrt",
    "torch_tensorrt": "torch-tensorrt",
}


@dataclass(frozen=True)
class Build:
    """OnnxModel -> BundleFolder: the graph with an engine for each backend and a manifest over all of it.

    A backend that is not installed is an error, never replaced by another. With `onnxruntime` among the backends the
    golden frames are run through the new engine, so that a bundle that cannot run is not written.
    """

    backends: tuple[Backend, ...] = ("onnxruntime",)
    """Engines to build: onnxruntime, tensorrt_rtx, tensorrt, torch_tensorrt."""
    precision: BuildPrecision = "fp32"
    """fp32, fp16, int8 (needs a calibrated graph) or best: the fastest as measured here, for onnxruntime only."""
    compute_capability: str = "sm86"
    """GPU architecture that tensorrt_rtx builds for: sm75, sm80, sm86, sm89, sm120, sm121, or current: the GPU at hand."""
    plan: PlanOptions = DEFAULTS
    """How TensorRT's builder works."""
    weights: str | None = field(default=None, metadata={"identity": False})
    """Weights folder that the graph was exported from; torch_tensorrt compiles these, and only it reads them."""
    timeout_s: float = field(default=1200.0, metadata={"identity": False})
    """Seconds after which building one plan, or timing those with plugins, is given up. torch_tensorrt, which compiles in this
    process, knows no such end."""
    plugins: Plugins = "none"
    """auto takes operators of `deploy.plugins` where they were measured to be faster on this machine, none takes none."""
    plugin_library: str | None = field(default=None, metadata={"identity": False})
    """The plugins' library for TensorRT, compiled on this machine (see deploy/plugins/CMakeLists.txt); only auto reads it."""
    version: ClassVar[int] = 5

    def __post_init__(self) -> None:
        problems = []
        if not self.backends or len(set(self.backends)) != len(self.backends):
            problems.append(f"backends: {list(self.backends)} does not name one or more, each once")
        if unknown := [b for b in self.backends if b not in BACKENDS]:
            problems.append(f"backends: {unknown[0]!r} is not one of {', '.join(BACKENDS)}")
        if self.precision not in BUILD_PRECISIONS:
            problems.append(f"precision: {self.precision!r} is not one of {', '.join(BUILD_PRECISIONS)}")
        known = (*RTX_COMPUTE_CAPABILITIES, "current")
        if self.compute_capability not in known:
            problems.append(f"compute_capability: {self.compute_capability!r} is not one of {', '.join(known)}")
        if self.plugins not in get_args(Plugins):
            problems.append(f"plugins: {self.plugins!r} is not one of {', '.join(get_args(Plugins))}")
        if not self.timeout_s > 0:
            problems.append(f"timeout_s: {self.timeout_s} is not above 0")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and input: this machine, its GPU and the backends' versions."""
        found: dict[str, str] = {"machine": platform.machine()}
        found |= {backend: installed_version(backend) for backend in self.backends}
        if self.precision == "best" or self.plugins == "auto":
            found["processor"] = processor()  # by whose times it chooses
        if self.plugins == "auto":
            onnx = "there" if importlib.util.find_spec("onnx") else "none"
            found |= {"plugins": source_digest(), "compiler": twin.compiler() or "none", "onnx": onnx}
        if {"tensorrt", "torch_tensorrt"} & set(self.backends) or self.compute_capability == "current":
            found["gpu"] = _gpu_name()
        if self._reads_plugin_library:
            library = Path(str(self.plugin_library))
            found["plugin_library"] = sha256_file(library) if library.is_file() else "none"
        if "torch_tensorrt" in self.backends and self.weights is not None:
            found["weights"] = open_artifact(Weights, Path(self.weights)).digest
        return found

    @property
    def _reads_plugin_library(self) -> bool:
        return self.plugins == "auto" and "tensorrt" in self.backends and self.plugin_library is not None

    def require_backends(self) -> None:
        """Raise ImportError, with what installs it, for a backend that is not there; ValueError where it cannot do this, and
        it or OSError for a library of plugins that is not ours.
        """
        for backend in self.backends:
            _require_library(backend)
            if self.precision == "best":
                _require_runs_here(backend)
        if self._reads_plugin_library:
            try:
                our_library(Path(str(self.plugin_library))).load()
            except RuntimeError as e:
                raise ValueError(f"plugin_library: {e}") from None
        if "torch_tensorrt" in self.backends and self.weights is None:
            raise ValueError("backend torch_tensorrt compiles weights, not the graph: name their folder with --weights DIR")

    def __call__(self, model: OnnxModel, slot: Slot) -> BundleFolder:
        """Build the bundle in `slot`.

        Raises ValueError when the model's folder was changed, has no calibration for int8, was exported from other weights
        than torch_tensorrt is to compile, or its graph is refused, ImportError when a backend is not installed, RuntimeError
        when the engine cannot be built or disagrees with the golden masks, TimeoutError.
        """
        model.check()
        self.require_backends()
        notes: list[dict[str, Any]] = []  # into the sidecar: times would make equal bundles differ
        with slot.writing(BundleFolder, parents=[model], engines=notes) as folder:
            model.copy_to(folder)
            notes += self.add_engines(folder, model.path, slot.log)
        return BundleFolder(slot.out)

    def add_engines(self, folder: Path, source: Path, log: Log) -> list[dict[str, Any]]:
        """Write an engine for each backend, and the manifest, into `folder`, which holds a graph folder's files.

        `source` is the folder to name where its graph is refused. What is worth a note of each engine comes back. Raises as
        calling the stage does.
        """
        if "torch_tensorrt" in self.backends:
            open_weights_of(source, Path(str(self.weights)))  # its plan goes by the graph's name
        chosen = {backend: self._precision(backend, folder, source, log) for backend in self.backends}
        notes = [{**self._add_engine(b, p, folder, source, log), **why} for b, (p, why) in chosen.items()]
        write_manifest(folder)
        if "onnxruntime" in chosen:
            note, (precision, _) = notes[self.backends.index("onnxruntime")], chosen["onnxruntime"]
            note |= _try_golden(folder, source, precision, note["key"], log)
        return notes

    def _precision(self, backend: Backend, folder: Path, source: Path, log: Log) -> tuple[str, dict[str, Any]]:
        """The precision to build, and a note of why where that was measured; its graph lies in `folder` then."""
        if self.precision != "best":
            write_graph(folder, self.precision, source)
            return self.precision, {}
        from .building.best import choose

        candidates = ["fp32", "fp16", *(["int8"] if (folder / bundles.CALIBRATION).is_file() else [])]
        written = [precision for precision in candidates if write_graph(folder, precision, source)]
        choice = choose(folder, candidates)
        for precision in written:  # what was there before is another engine's
            if precision != choice.precision:
                (folder / graph_name(precision)).unlink()
        log("precision", backend=backend, chosen=choice.precision, why=choice.why)
        return choice.precision, {"best": choice._asdict()}

    def _add_engine(self, backend: Backend, precision: str, folder: Path, source: Path, log: Log) -> dict[str, Any]:
        """Write engines/<key>/ below `folder`; what is worth a note in the sidecar comes back."""
        notes: dict[str, Any] = {}
        if backend == "onnxruntime":
            from edgesmith.deploy.engines import onnxruntime as ort

            key, files, used, notes = self._cpu_plugins(folder, precision)
            record = EngineRecord(
                key=key,
                backend=backend,
                version=ort.library().__version__,
                device=f"CPU, {platform.machine()}",
                precision=precision,
                graph_sha256=sha256_file(folder / graph_name(precision)),
                graph=graph_name(precision),
                plugins=used,
            )
            remove_engines(folder, ort.engine_key(precision))
            (folder / "engines" / record.key).mkdir(parents=True)
            for name, value in files.items():
                write_json(folder / "engines" / record.key / name, value)
        else:
            from .building.plan import add_plan

            record, notes = add_plan(self, backend, precision, folder, source, log)
        write_json(folder / "engines" / record.key / "engine.json", record.to_json())
        log("engine", key=record.key, **{k: v for k, v in notes.items() if k != "plugins"})
        if "plugins" in notes:
            log("plugins", backend=backend, **notes["plugins"])
        return {"key": record.key, **notes}

    def _cpu_plugins(self, folder: Path, precision: str) -> tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]]:
        """Of the engine on the CPU: its key, files for its folder, the plugins that it uses, and a note of both times."""
        from edgesmith.deploy.engines.onnxruntime import engine_key

        if self.plugins == "none":
            return engine_key(precision), {}, (), {}
        from edgesmith.deploy.engines import onnxruntime_split as split

        from .building.plugin_choice import PLUGIN, choose

        choice = choose(folder, precision)
        taken = () if choice.split is None else (PLUGIN,)
        note = {"plugins": {"taken": list(taken), "why": choice.why, "median_ms": choice.median_ms}}
        if choice.split is None:
            return engine_key(precision), {}, taken, note
        return split.engine_key(precision), {split.SPLIT: choice.split.to_json()}, taken, note


def write_graph(folder: Path, precision: str, source: Path) -> bool:
    """Write the graph of `precision` beside model.onnx, with the ranges of calibration.json for int8, unless it is there.

    Whether it was written comes back.

    Raises ValueError naming `source` and the fix when it cannot be lowered, or int8 has no calibration; ImportError
    without onnx.
    """
    path = folder / graph_name(precision)
    if path.is_file():
        return False
    if precision == "int8" and not (folder / bundles.CALIBRATION).is_file():
        built = (source / bundles.MANIFEST).is_file()  # a bundle, which calibrate does not take
        raise ValueError(
            f"{source} has no {bundles.CALIBRATION}, and precision int8 needs the ranges of its graph: "
            f"edgesmith calibrate {'GRAPH' if built else source} --data SPEC --out OUT, then "
            "edgesmith build OUT --precision int8 --out BUNDLE"
            + ("; GRAPH is the graph folder that this bundle was built from" if built else "")
        )
    from edgesmith.calibration.int8 import Calibration

    from .graphs.precision import lowered
    from .graphs.view import read_graph

    calibration = Calibration.read(folder / bundles.CALIBRATION) if precision == "int8" else None
    try:
        model = lowered(read_graph(folder / bundles.GRAPH), "int8" if precision == "int8" else "fp16", calibration)
    except ValueError as e:
        raise ValueError(f"{source}: {e}") from None
    write_bytes(path, model.SerializeToString(deterministic=True))
    return True


def known_graph(folder: Path, source: Path, precision: str) -> Path:
    """The graph's file, where possible in the folder that the user knows it by."""
    known = source / graph_name(precision)
    return known if known.is_file() else folder / graph_name(precision)


def remove_engines(folder: Path, key: str) -> None:
    """Remove from the bundle at `folder` the engines of this key, with whatever plugins: one of them is to be put there."""
    for older in (folder / "engines").glob(f"{key}*"):
        shutil.rmtree(older)


def _try_golden(folder: Path, source: Path, precision: str, key: str, log: Log) -> dict[str, Any]:
    """Run the bundle's golden frames. Raises RuntimeError when the engine's labels are not torch's."""
    from edgesmith.deploy.engines import open_engine

    bundle = Bundle.open(folder)
    graph = known_graph(folder, source, precision)
    with open_engine("onnxruntime", graph, folder / "engines" / key, bundle.meta.frame_hw, precision) as engine:
        golden = check_golden(bundle, engine)
    if not golden.passed:
        raise RuntimeError(
            f"the onnxruntime engine of {graph}, {precision}, gives {golden.agreement:.2%} of the golden pixels torch's label "
            f"(worst: golden/{golden.worst}, {golden.worst_agreement:.2%}); {golden.threshold:.1%} are needed"
        )
    log("golden", frames=golden.frames, pixel_agreement=golden.agreement)
    return {"golden_frames": golden.frames, "golden_agreement": golden.agreement}


def _require_library(backend: Backend) -> None:
    """Raise ImportError, with what installs it, when the backend is not there. TensorRT is loaded in a child only."""
    if backend == "onnxruntime":
        from edgesmith.deploy.engines.onnxruntime import library

        library()
    elif backend == "torch_tensorrt":
        if importlib.util.find_spec("torch_tensorrt") is None:
            raise ImportError("backend 'torch_tensorrt' is not installed: pip install 'edgesmith[tensorrt]'")
    else:
        from edgesmith.deploy.engines.tensorrt_builder import require_library

        require_library(backend)


def _require_runs_here(backend: Backend) -> None:
    """Raise ValueError unless engines of the backend can be timed on this machine."""
    if backend != "onnxruntime":
        raise ValueError(
            f"precision best measures on the backend, and {backend} plans are built here but not run: "
            "name the precision, as in --precision fp16"
        )


def _gpu_name() -> str:
    try:
        return " ".join(current_gpu())
    except RuntimeError:
        return "none"


def installed_version(backend: Backend) -> str:
    """Version of a backend as installed here, `none` where it is not, `unknown` without metadata; nothing is imported."""
    if importlib.util.find_spec(backend) is None:
        return "none"
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(_DISTRIBUTIONS[backend])
    # The module may come under another name, such as onnxruntime-gpu.
    names = metadata.packages_distributions().get(backend, [])
    return metadata.version(names[0]) if names else "unknown"
