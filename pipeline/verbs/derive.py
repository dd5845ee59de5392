"""Derive: from the logits of a search to the network that they mean."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import FILE, json_option, require_writable, show_result

if TYPE_CHECKING:
    from edgesmith.pipeline.search.fasterseg_derive import Outcome, Rule, Target
    from edgesmith.pipeline.search.fasterseg_space import Scales, Score

OUTCOMES = ("student", "teacher", "pruned_teacher")  # fasterseg_derive's, whose module --help need not load


class ScalesType(click.ParamType):  # type: ignore[type-arg]  # older click has no type argument
    """Last downsampling rates of one or two branches, such as 32,16; given to the command as scales 2, 1."""

    name = "RATE[,RATE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        known = {"8": 0, "16": 1, "32": 2}
        rates = str(value).split(",")
        scales = tuple(sorted((known[r] for r in rates if r in known), reverse=True))
        if not len(rates) == len(scales) == len(set(scales)) or len(scales) > 2:
            self.fail(f"{value!r} is not one or two different rates of 8, 16 and 32, as in 32,16", param, ctx)
        return scales


@click.group()
def derive() -> None:
    """Derive a discrete network from what a search has settled."""


@derive.command("fasterseg")
@click.option("--logits", type=FILE, required=True, metavar="JSON", help="Architecture logits of a search.")
@click.option("--net", type=click.Choice(OUTCOMES), default="student", show_default=True, help="Which network.")
@click.option("--rule", type=click.Choice(("paper", "replay")), default="paper", show_default=True, help="See above.")
@click.option("--scales", type=ScalesType(), help="Last rates of the branches. Default: the best that the file has scores of.")
@click.option("--target", type=float, metavar="T", help="T of Eq. 5, in the unit of the file's latencies.")
@click.option("--alpha", type=float, help="w of Eq. 6 where the latency is at most T.")
@click.option("--beta", type=float, help="w of Eq. 6 where it is above T.")
@click.option("--name", help="Name of the network. Default: made from its digest.")
@click.option("--out", type=FILE, required=True, metavar="ARCH.json", help="Architecture to write.")
@json_option
def derive_fasterseg(
    logits: Path,
    net: Outcome,
    rule: Rule,
    scales: tuple[int, ...] | None,
    target: float | None,
    alpha: float | None,
    beta: float | None,
    name: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Take the likeliest operators, widths and downsamplings, and write the network.

    \b
    edgesmith derive fasterseg --logits runs/camvid-fasterseg/search/logits.json --out student.json
    edgesmith derive fasterseg --logits released.json --rule replay --net teacher --out teacher.json
    edgesmith table sum student.json --table table.json

    Cells that came out as skips are left out, as long as the network stays deep enough, and branches have their first equal
    cells in common. Which branches it has is decided by mIoU * (latency / T)**w of the sets that the file has both numbers
    of (FasterSeg, Eq. 5), unless --scales names them. T and w are those of the search, where its search.json lies beside the
    logits, or the paper's (8.3 ms, -0.07); --target, --alpha and --beta say otherwise. --net pruned_teacher has the teacher's
    branches and operators, at the smallest width.

    --rule replay puts a branch's single downsampling one layer earlier, as the authors' code does: the published networks
    come out only so. A new search has no use for it.
    """
    from edgesmith.deploy.files import existing_file, write_json
    from edgesmith.pipeline.search import fasterseg_derive as rules
    from edgesmith.pipeline.search.fasterseg_space import read_logits

    require_writable("--out", out, "architecture", _is_architecture)
    found = read_logits(existing_file(logits, "--logits", "a search leaves them as RUN/search/logits.json"))
    source = rules.source_of(net)
    if source not in found.logits:
        raise ValueError(f"--net: {logits} has no {source}, only {', '.join(found.logits)}")
    scores = found.candidates(source)
    by, of = _target(logits, {"T": target, "alpha": alpha, "beta": beta})
    if scales is None:
        if not scores:
            raise ValueError(f"--scales: {logits} has no mIoU and latency of any branches; name them, as in --scales 32,16")
        scales = rules.choose_scales(scores, by)
    arch = rules.derived(found, net, scales, rule)
    arch = replace(arch, name=name or arch.name)
    write_json(out, arch.to_json())
    show_result(
        {
            "arch": arch.name,
            "digest": arch.digest,
            "out": str(out),
            "rates": list(arch.last_scales),
            "cells": [len(b) for b in arch.branches],
            "shared": arch.shared,
            "target": {**asdict(by), "of": of},
            "candidates": [_candidate(key, score, by, key == scales) for key, score in scores.items()],
        },
        as_json,
    )


def _candidate(scales: Scales, score: Score, by: Target, chosen: bool) -> dict[str, Any]:
    """A set of branches as the result shows it."""
    from edgesmith.pipeline.search.fasterseg_space import RATES

    return {
        "rates": [RATES[s] for s in scales],
        "val_miou": score.miou,
        "latency": score.latency,
        "target": by.of(score),
        "chosen": chosen,
    }


def _is_architecture(path: Path) -> bool:
    from edgesmith.deploy.files import read_json
    from edgesmith.models.arch import Arch

    try:
        Arch.from_json(read_json(path))
    except (ValueError, TypeError):
        return False
    return True


def _target(logits: Path, given: dict[str, float | None]) -> tuple[Target, str]:
    """What chooses among the sets of branches, and whose it is: the search's that left `logits`, or the paper's."""
    from edgesmith.deploy.files import read_json
    from edgesmith.pipeline.search.fasterseg_derive import Target

    found, of, path = Target(), "the paper", logits.parent / "search.json"
    summary = read_json(path) if path.is_file() else None
    if isinstance(summary, dict) and summary.get("method") == "fasterseg":
        try:
            found, of = Target(**{name: float(value) for name, value in summary["target"].items()}), str(path)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: target must hold the numbers T (above 0), alpha and beta") from None
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return found, of
    options = " ".join(f"--{'target' if name == 'T' else name}" for name in changes)
    try:
        return replace(found, **changes), options if len(changes) == len(given) else f"{options}, else {of}"
    except ValueError as e:
        raise ValueError(f"--target: {e}") from None
