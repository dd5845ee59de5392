"""The time of a graph on ONNX Runtime, and of a piece of a network less what is only there because it runs alone."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesmith.deploy.engines.onnxruntime import SessionOptions, library, open_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from .neighbours import Shape

REPEATS = 10
"""Runs that one time is the median of."""
WARM_UP = 3


class Session:
    """A graph with the project's own settings, its inputs and outputs bound, so that a run copies nothing.

    Inputs are noise: uint8 over its range, float from -1 to 1. Raises ValueError when ONNX Runtime does not take the graph.
    """

    def __init__(self, model: ModelProto, options: SessionOptions) -> None:
        ort = library()
        self._session = open_session(model.SerializeToString(), options)
        self._binding: Any = self._session.io_binding()
        self._held: list[Any] = []  # what is bound must outlive the binding
        random = np.random.default_rng(0)
        for port in self._session.get_inputs():
            if port.type == "tensor(uint8)":
                self._held.append(random.integers(0, 256, port.shape, np.uint8))
            else:
                self._held.append(random.uniform(-1, 1, port.shape).astype(np.float32))
            self._binding.bind_cpu_input(port.name, self._held[-1])
        for port in self._session.get_outputs():
            self._held.append(np.zeros(port.shape, np.uint8 if port.type == "tensor(uint8)" else np.float32))
            self._held.append(ort.OrtValue.ortvalue_from_numpy(self._held[-1]))
            self._binding.bind_ortvalue_output(port.name, self._held[-1])

    def time_ms(self) -> float:
        """Median of REPEATS runs behind WARM_UP others."""
        taken = []
        for _ in range(WARM_UP + REPEATS):
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[WARM_UP:]) * 1e3


@dataclass
class Stopwatch:
    """Times pieces, each beside the references that are taken off its time. It keeps their sessions: one watch, one round."""

    options: SessionOptions
    _neighbours: dict[Shape, Session] = field(default_factory=dict, init=False)

    def piece_ms(self, model: ModelProto, inputs: list[Shape], outputs: list[Shape]) -> float:
        """The time of `model` between neighbours on the given maps, (C, H, W), less theirs and less that of a call."""
        from .neighbours import between_neighbours

        between = between_neighbours(model, inputs=bool(inputs), outputs=bool(outputs))
        whole_ms = Session(between, self.options).time_ms()
        call_ms = self.call_ms()
        return whole_ms - call_ms - sum((self._two_neighbours(s).time_ms() - call_ms) / 2 for s in (*inputs, *outputs))

    def call_ms(self) -> float:
        """The time of a call that computes nothing."""
        return self._nothing.time_ms()

    @cached_property
    def _nothing(self) -> Session:
        from .neighbours import nothing

        return Session(nothing(), self.options)

    def _two_neighbours(self, shape: Shape) -> Session:
        from .neighbours import two_neighbours

        if shape not in self._neighbours:
            self._neighbours[shape] = Session(two_neighbours(shape), self.options)
        return self._neighbours[shape]
