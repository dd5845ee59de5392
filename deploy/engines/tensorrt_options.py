"""How a plan is built beyond what its graph says, and which TensorRT knows which of it.

SUPPORT is the table. What a library does not know is never passed over: `ignored` puts it in words, and the builder sends
them with its progress and keeps them in the record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class PlanOptions:
    """Choices of TensorRT's builder. The defaults are the library's own."""

    timing_cache: str | None = field(default=None, metadata={"identity": False})
    """File that keeps what was timed, so that the next build on this device is short and chooses alike. Made when missing."""
    workspace_mib: int | None = None
    """Most memory that one layer may use for its scratch space."""
    optimization_level: int | None = None
    """0 (short build) to 5 (tries everything); the library's default is 3."""
    version_compatible: bool = False
    """The plan also runs on later versions of the library, at some cost in speed."""

    def __post_init__(self) -> None:
        problems = []
        if self.workspace_mib is not None and self.workspace_mib < 1:
            problems.append(f"workspace_mib: {self.workspace_mib} is not 1 or more")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            problems.append(f"optimization_level: {self.optimization_level} is not 0 to 5")
        if self.timing_cache == "":
            problems.append("timing_cache: is empty; name a file or leave it out")
        if problems:
            raise ValueError("\n".join(problems))


DEFAULTS = PlanOptions()


class Support(NamedTuple):
    """Since which version a library has something, up to which; why not where it has it not."""

    since: tuple[int, ...] = (0,)
    until: tuple[int, ...] | None = None
    """First version without it."""
    instead: str = ""
    """What holds where it is missing."""


NEVER = (1 << 30,)

SUPPORT: dict[str, dict[str, Support]] = {
    "timing_cache": {
        "tensorrt": Support((8, 0)),
        "tensorrt_rtx": Support(NEVER, instead="it times nothing when it builds; a plan is tuned where it first runs"),
    },
    "workspace_mib": {"tensorrt": Support((8, 4)), "tensorrt_rtx": Support()},
    "optimization_level": {
        "tensorrt": Support((8, 6)),
        "tensorrt_rtx": Support(NEVER, instead="its plans are the same bytes at every level (seen with 1.7.1)"),
    },
    # TensorRT for RTX has no lean runtime to put into the plan; without it the flag builds.
    "version_compatible": {"tensorrt": Support((8, 6)), "tensorrt_rtx": Support()},
    "lean_runtime_in_plan": {"tensorrt": Support((8, 6)), "tensorrt_rtx": Support(NEVER)},
    "strongly_typed_flag": {
        "tensorrt": Support((9, 1), (11,), "every network is strongly typed"),
        "tensorrt_rtx": Support(NEVER, instead="every network is strongly typed"),
    },
    "progress_monitor": {"tensorrt": Support((8, 6)), "tensorrt_rtx": Support()},
    "compute_capability": {
        "tensorrt": Support(NEVER, instead="it builds for the GPU at hand"),
        "tensorrt_rtx": Support(),
    },
    "plugins": {
        "tensorrt": Support((10,), instead="IPluginV3 came with 10.0"),
        # Its parser even makes ours from the nodes, and ends the process when they join the network (seen with 1.7.1).
        "tensorrt_rtx": Support(NEVER, instead="TensorRT for RTX has no plugins"),
    },
}
"""From the release notes and headers of 8.6, 10.3, 10.16, 11.0 and 11.1; TensorRT for RTX as seen with 1.7.1."""


def supports(what: str, module: str, version: str) -> bool:
    """Whether a library has `what`, a row of SUPPORT. Raises KeyError for an unknown row or module."""
    entry = SUPPORT[what][module]
    number = version_number(version)
    return number >= entry.since and (entry.until is None or number < entry.until)


def ignored(options: PlanOptions, module: str, version: str) -> list[str]:
    """In words, what was asked for and cannot be honoured."""
    asked = {
        "timing_cache": options.timing_cache,
        "workspace_mib": options.workspace_mib,
        "optimization_level": options.optimization_level,
        "version_compatible": options.version_compatible or None,
    }
    return [
        f"{name} {value} is not honoured by {module} {version}" + (f": {why}" if (why := SUPPORT[name][module].instead) else "")
        for name, value in asked.items()
        if value is not None and not supports(name, module, version)
    ]


def version_number(version: str) -> tuple[int, ...]:
    """`10.3.0.26` as (10, 3, 0, 26); what is no number ends it."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
