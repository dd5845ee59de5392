"""OnnxModel -> BundleFolder: add engines and a manifest to the graph. Runs without torch, on the host or on the device."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from edgesmith.deploy import bundle as bundles
from edgesmith.deploy.bundle import Bundle, EngineRecord, Meta, check_golden, write_manifest
from edgesmith.deploy.engines import BACKENDS, Backend
from edgesmith.deploy.engines.tensorrt import RTX_COMPUTE_CAPABILITIES
from edgesmith.deploy.files import payload_files, sha256_file, write_json
from edgesmith.pipeline.artifacts import SIDECAR, BundleFolder, OnnxModel, Slot, content_digest

_DISTRIBUTIONS: dict[Backend, str] = {"onnxruntime": "onnxruntime", "tensorrt_rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}


@dataclass(frozen=True)
class Build:
    """OnnxModel -> BundleFolder: the graph with an engine for each backend and a manifest over all of it.

    A backend that is not installed is an error, never replaced by another. With `onnxruntime` among the backends the
    golden frames are run through the new engine, so that a bundle that cannot run is not written.
    """

    backends: tuple[Backend, ...] = ("onnxruntime",)
    """Engines to build: onnxruntime, tensorrt_rtx, tensorrt."""
    compute_capability: str = "sm86"
    """GPU architecture that tensorrt_rtx builds for: sm75, sm80, sm86, sm89, sm120 or sm121."""
    timeout_s: float = field(default=1200.0, metadata={"identity": False})
    """Seconds after which building one plan is given up."""
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        problems = []
        if not self.backends or len(set(self.backends)) != len(self.backends):
            problems.append(f"backends: {list(self.backends)} does not name one or more, each once")
        if unknown := [b for b in self.backends if b not in BACKENDS]:
            problems.append(f"backends: {unknown[0]!r} is not one of {', '.join(BACKENDS)}")
        if self.compute_capability not in RTX_COMPUTE_CAPABILITIES:
            known = ", ".join(RTX_COMPUTE_CAPABILITIES)
            problems.append(f"compute_capability: {self.compute_capability!r} is not one of {known}")
        if not self.timeout_s > 0:
            problems.append(f"timeout_s: {self.timeout_s} is not above 0")
        if problems:
            raise ValueError("\n".join(problems))

    @property
    def environment(self) -> dict[str, str]:
        """What the result depends on beside configuration and input: this machine and the backends' versions."""
        return {"machine": platform.machine(), **{b: installed_version(b) for b in self.backends}}

    def require_backends(self) -> None:
        """Raise ImportError, with what installs it, for a backend that is not there."""
        for backend in self.backends:
            _require_library(backend)

    def __call__(self, model: OnnxModel, slot: Slot) -> BundleFolder:
        """Build the bundle in `slot`.

        Raises ValueError when the model's folder was changed or its graph is refused, ImportError when a backend is not
        installed, RuntimeError when the engine cannot be built or disagrees with the golden masks, TimeoutError.
        """
        model.check()
        self.require_backends()
        meta = Meta.read(model.path / bundles.META)
        notes: list[dict[str, Any]] = []  # into the sidecar: times would make equal bundles differ
        with slot.writing(BundleFolder, parents=[model], engines=notes) as folder:
            _copy(model, folder)
            for backend in self.backends:
                notes.append(self._add_engine(backend, model.path / bundles.GRAPH, meta, folder, slot))
            write_manifest(folder)
            if "onnxruntime" in self.backends:
                notes[self.backends.index("onnxruntime")] |= _try_golden(model.path / bundles.GRAPH, folder, slot)
        return BundleFolder(slot.out)

    def _add_engine(self, backend: Backend, graph: Path, meta: Meta, folder: Path, slot: Slot) -> dict[str, Any]:
        """Write engines/<key>/ below `folder`; what is worth a note in the sidecar comes back."""
        notes: dict[str, Any] = {}
        if backend == "onnxruntime":
            from edgesmith.deploy.engines import onnxruntime as ort

            record = EngineRecord(
                key=ort.engine_key(meta.precision),
                backend=backend,
                version=ort.library().__version__,
                device=f"CPU, {platform.machine()}",
                precision=meta.precision,
                graph_sha256=sha256_file(graph),
            )
            (folder / "engines" / record.key).mkdir(parents=True)
        else:
            record, notes = self._add_plan(backend, graph, meta, folder, slot)
        write_json(folder / "engines" / record.key / "engine.json", record.to_json())
        slot.log("engine", key=record.key, **notes)
        return {"key": record.key, **notes}

    def _add_plan(
        self, backend: Backend, graph: Path, meta: Meta, folder: Path, slot: Slot
    ) -> tuple[EngineRecord, dict[str, Any]]:
        from edgesmith.deploy.engines import tensorrt as trt

        plan = folder / "engines" / trt.PLAN
        plan.parent.mkdir(exist_ok=True)
        built = trt.build_plan(
            graph,
            plan,
            module=backend,
            compute_capability=self.compute_capability,
            timeout_s=self.timeout_s,
            progress=lambda phase: slot.log("build", backend=backend, phase=phase),
        )
        record = EngineRecord(
            key=trt.engine_key(backend, built.version, built.compute_capability, meta.precision),
            backend=backend,
            version=built.version,
            device=f"NVIDIA GPU, {built.compute_capability}",
            precision=meta.precision,
            graph_sha256=sha256_file(graph),
            compute_capability=built.compute_capability,
            plan_bytes=built.plan_bytes,
        )
        home = folder / "engines" / record.key
        home.mkdir()
        plan.rename(home / trt.PLAN)
        return record, {"build_seconds": built.build_seconds, "plan_bytes": built.plan_bytes}


def _copy(model: OnnxModel, folder: Path) -> None:
    for name in payload_files(model.path, without=(SIDECAR,)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path / name, folder / name)
    if content_digest(folder) != model.sidecar["digest"]:
        raise ValueError(f"{model.path} was changed while it was copied; export it again")


def _try_golden(graph: Path, folder: Path, slot: Slot) -> dict[str, Any]:
    """Run the bundle's golden frames. Raises RuntimeError when the engine's labels are not torch's."""
    from edgesmith.deploy.engines.onnxruntime import OnnxRuntimeEngine

    bundle = Bundle.open(folder)
    with OnnxRuntimeEngine(graph, bundle.meta.frame_hw, precision=bundle.meta.precision) as engine:
        golden = check_golden(bundle, engine)
    if not golden.passed:
        raise RuntimeError(
            f"the onnxruntime engine of {graph} gives {golden.agreement:.2%} of the golden pixels torch's label "
            f"(worst: golden/{golden.worst}, {golden.worst_agreement:.2%}); {golden.threshold:.1%} are needed"
        )
    slot.log("golden", frames=golden.frames, pixel_agreement=golden.agreement)
    return {"golden_frames": golden.frames, "golden_agreement": golden.agreement}


def _require_library(backend: Backend) -> None:
    """Raise ImportError, with what installs it, when the backend is not there. TensorRT is loaded in a child only."""
    if backend == "onnxruntime":
        from edgesmith.deploy.engines.onnxruntime import library

        library()
    else:
        from edgesmith.deploy.engines.tensorrt import require_library

        require_library(backend)


def installed_version(backend: Backend) -> str:
    """Version of a backend as installed here, `none` where it is not, `unknown` without metadata; nothing is imported."""
    if importlib.util.find_spec(backend) is None:
        return "none"
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(_DISTRIBUTIONS[backend])
    # The module may come under another name, such as onnxruntime-gpu.
    names = metadata.packages_distributions().get(backend, [])
    return metadata.version(names[0]) if names else "unknown"
