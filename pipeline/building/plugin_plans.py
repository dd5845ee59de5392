"""Whether plugins make a TensorRT plan faster on the GPU at hand: each operator alone, all together and none, timed in turn.

A plan is native where that cannot be measured, and why is said. Not only speed is asked for: a plan must label the golden
frames as the native one does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgesmith.deploy.bundle import META, graph_name
from edgesmith.deploy.engines import Backend
from edgesmith.deploy.engines.tensorrt import BuiltPlan, Timed, time_plans
from edgesmith.deploy.engines.tensorrt_options import SUPPORT
from edgesmith.deploy.files import write_bytes
from edgesmith.deploy.meta import Meta
from edgesmith.deploy.plugins import HOW_TO_BUILD, PluginLibrary, our_library
from edgesmith.pipeline.events import Log
from edgesmith.pipeline.frames import golden_frames

from .plugin_choice import MARGIN, NATIVE, ROUNDS

AGREEMENT = 0.99
"""Share of the golden pixels that a plan with plugins must label as the native plan of the same precision does."""


class Candidate(NamedTuple):
    """A plan that was built, and the library that it needs."""

    plan: Path
    built: BuiltPlan
    plugins: PluginLibrary | None = None

    @property
    def operators(self) -> tuple[str, ...]:
        return () if self.plugins is None else self.plugins.operators


Chosen = tuple[Candidate, dict[str, Any]]
"""A plan, and the note of why it was taken: `taken` (operators), `why`, `median_ms` and `agreement` by candidate, `refused`."""


def choose(
    native: Candidate,
    backend: Backend,
    precision: str,
    folder: Path,
    library: str | None,
    build: Callable[[Path, Path, PluginLibrary | None], BuiltPlan],
    log: Log,
    timeout_s: float,
) -> Chosen:
    """Build the graph of `precision` in graph folder `folder` with plugins too, beside the native plan, and take the fastest.

    `build(graph, plan, plugins)` builds one; what it refuses is noted, and the rest is measured. That is given up after
    `timeout_s` seconds.
    """
    why = _hindrance(backend, library)
    frames = golden_frames(folder, Meta.read(folder / META))
    if not why and not frames:
        why = "there are no golden frames to measure with"
    if why or library is None:
        return native, _note((), why)
    from edgesmith.pipeline.graphs.rewrite import for_plugins, fused, operators
    from edgesmith.pipeline.graphs.view import read_graph

    model = read_graph(folder / graph_name(precision))
    found, refused = {NATIVE: native}, dict[str, str]()
    names = tuple(operators(fused(model)))
    if not names:
        return native, _note((), "the graph has nothing that a plugin computes")
    for wanted in variants(names):
        name = "+".join(wanted)
        graph, plan = (native.plan.with_name(f"{name}.{end}") for end in ("onnx", "plan"))
        log("build", backend=backend, plugins=name)
        write_bytes(graph, for_plugins(fused(model, wanted)).SerializeToString(deterministic=True))
        plugins = our_library(Path(library), wanted)
        try:
            found[name] = Candidate(plan, build(graph, plan, plugins), plugins)
        except (ValueError, RuntimeError, TimeoutError) as e:
            refused[name] = str(e)
            log("warning", message=f"no plan with {name}: {e}")
    if len(found) == 1:
        return native, _note((), "no plan with plugins could be built", refused=refused)
    try:
        plans, plugins = {n: c.plan for n, c in found.items()}, our_library(Path(library), names)
        timed = time_plans(plans, frames, backend, plugins, ROUNDS, timeout_s)
    except (RuntimeError, TimeoutError) as e:
        return native, _note((), f"the plans could not be timed: {e}", refused=refused)
    name, why = fastest(timed, AGREEMENT, ROUNDS)
    return found[name], _note(found[name].operators, why, **timed._asdict(), refused=refused)


def variants(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Each operator alone, and all of them."""
    alone: list[tuple[str, ...]] = [(name,) for name in names]
    return alone if len(names) == 1 else [*alone, names]


def fastest(timed: Timed, agreement: float, rounds: int) -> tuple[str, str]:
    """The candidate to take, and why: it must save MARGIN of the native one's time and share `agreement` of its labels."""
    median_ms = timed.median_ms
    sound = [name for name in median_ms if timed.agreement[name] >= agreement]
    best = min(sound, key=lambda name: median_ms[name])
    taken = best if median_ms[best] < (1 - MARGIN) * median_ms[NATIVE] else NATIVE
    shown = ", ".join(f"{name} {ms:.3f} ms" for name, ms in median_ms.items())
    wrong = "".join(
        f"; {name} gives {timed.agreement[name]:.2%} of the golden pixels the native label, and {agreement:.1%} are needed"
        for name in median_ms
        if name not in sound
    )
    return taken, f"medians of {rounds} blocks in turn on the GPU: {shown}; plugins must be {MARGIN:.0%} faster{wrong}"


def _hindrance(backend: Backend, library: str | None) -> str:
    """Why no plugin can be tried here; empty where one can."""
    if backend == "torch_tensorrt":
        return "torch_tensorrt compiles weights, and plugins stand in the graph"
    if backend == "tensorrt_rtx":
        return SUPPORT["plugins"][backend].instead
    if library is None:
        named = "--plugin-library, EDGESMITH_PLUGINS or a recipe's build.plugin_library"
        return f"no library of plugins is named with {named}; what makes one: {HOW_TO_BUILD}"
    if importlib.util.find_spec("onnx") is None:
        return "onnx is not installed here, and it rewrites the graph: pip install onnx"
    return ""


def _note(taken: Sequence[str], why: str, **more: Any) -> dict[str, Any]:
    return {"taken": list(taken), "why": why, **{k: v for k, v in more.items() if v}}
