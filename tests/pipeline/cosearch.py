"""A made-up FasterSeg search in the format of a real one, with real networks: for tests of what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.models.arch import Segmentation
from edgesmith.models.cost import macs
from edgesmith.pipeline.search.fasterseg_derive import Target, choose_scales, derive, softmax
from edgesmith.pipeline.search.fasterseg_space import Found, Logits, Net, Scales, Score, Space, write_logits

HW, TASK = (64, 96), Segmentation(11)
PRETRAIN, SEARCH = 4, 8
TARGET = Target(8.3)


def make_cosearch(
    folder: Path,
    *,
    space: Space | None = None,
    seed: int = 0,
    decoupled: bool = True,
    teacher: bool = True,
    epochs: int = SEARCH,
) -> dict[str, Any]:
    """Write `folder`/search and return its search.json. A search that is not decoupled collapses to skips and slim tensors."""
    space = space or Space(layers=9)
    rng = np.random.default_rng(seed)
    nets: tuple[Net, ...] = ("student", "teacher") if teacher else ("student",)
    starts, ends = ({net: _way(space, net, rng, pull, decoupled) for net in nets} for pull in (0.0, 1.0))
    history: list[dict[str, Any]] = [
        {"phase": "pretrain", "loss": 60 * 0.8**i, "pixel_loss": 3 * 0.8**i, "lr": 0.02 * 0.98**i} for i in range(PRETRAIN)
    ]
    found = Found(space, {})
    for epoch in range(1, epochs + 1):
        logits = {net: _between(starts[net], ends[net], epoch / epochs) for net in nets}
        rows, scores = _networks(space, logits, epoch, rng)
        found = Found(space, logits, scores)
        history.append(
            {
                "phase": "search",
                "loss": 14 * 0.95**epoch,
                "pixel_loss": 1.2 * 0.95**epoch,
                "arch_loss": 16 * 0.95**epoch,
                "arch_pixel_loss": 1.3 * 0.95**epoch,
                "latency": 40 - 8 * epoch / epochs * (1 if decoupled else 3),
                "lambda": 0.01 * 2.0 ** (epoch // 3),
                "lr": 0.01,
                "probabilities": {net: _probabilities(each) for net, each in logits.items()},
                "entropy": _entropy(logits["student"]),
                "networks": rows,
            }
        )
    networks = history[-1].get("networks", [])
    summary = {
        "method": "fasterseg",
        "version": 7,
        "train_split": "0" * 64,
        "space": space.to_json(),
        "resource": "latency",
        "unit": "ms",
        "input_hw": list(HW),
        "classes": TASK.classes,
        "decoupled": decoupled,
        "latency_weights": [0.003, 0.991, 0.006] if decoupled else None,
        "sensitivity": {"operator": 12.4, "resolution": 0.04, "width": 6.2},
        "target": {"T": TARGET.T, "alpha": TARGET.alpha, "beta": TARGET.beta},
        "history": [{**row, "epoch": i} for i, row in enumerate(history, 1)],
        "networks": networks,
        "chosen": {net: list(choose_scales(found.scores[net], TARGET)) for net in found.scores},
    }
    (folder / "search").mkdir(parents=True, exist_ok=True)
    (folder / "search" / "search.json").write_text(json.dumps(summary))
    sidecar = {"kind": "search", "key": "k", "digest": "5e" * 32, "stage": "FasterSegSearch", "version": 1}
    (folder / "search" / "artifact.json").write_text(json.dumps(sidecar))
    if epochs:
        write_logits(folder / "search" / "logits.json", found)
    return summary


def _way(space: Space, net: Net, rng: np.random.Generator, pull: float, decoupled: bool) -> Logits:
    """Logits by chance, drawn by `pull` to heavy operators, or in a search that collapses to light and slim ones."""
    even = Logits.uniform(space, net)

    def drawn(tables: tuple[NDArray[np.float64], ...], to: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        return tuple(rng.normal(0, 0.4 + pull, t.shape) + pull * to[: t.shape[1]] for t in tables)

    heavy = np.linspace(0, 1.5 if net == "teacher" else 0.8, len(space.operators)) * (
        1 if decoupled or net == "teacher" else -3
    )
    wide = np.linspace(0, 0.5 if decoupled else -4, len(space.ratios))
    return Logits(drawn(even.alpha, heavy), drawn(even.beta, np.zeros(2)), drawn(even.ratio, wide))


def _between(start: Logits, end: Logits, share: float) -> Logits:
    pairs = ((start.alpha, end.alpha), (start.beta, end.beta), (start.ratio, end.ratio))
    return Logits(*(tuple((1 - share) * a + share * b for a, b in zip(*pair, strict=True)) for pair in pairs))


def _networks(
    space: Space, logits: dict[Net, Logits], epoch: int, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], Any]:
    rows: list[dict[str, Any]] = []
    scores: dict[Net, dict[Scales, Score]] = {}
    for net, each in logits.items():
        scores[net] = {}
        for scales in space.choices():
            arch = derive(space, each, net, scales, name=f"fasterseg-{net}")
            latency = 1.5 + 25 * macs(arch, TASK, HW) / 1e9
            score = Score(0.12 + 0.05 * np.log(1 + latency) + 0.01 * epoch + 0.01 * rng.normal(), latency)
            scores[net][scales] = score
            row = {"net": net, "scales": list(scales), "arch": arch.to_json(), "latency": latency, "val_miou": score.miou}
            rows.append({**row, "target": TARGET.of(score)})
    return rows, scores


def _probabilities(logits: Logits) -> dict[str, Any]:
    names = ("alpha", "beta", "ratio")
    return {k: [softmax(t).round(6).tolist() for t in getattr(logits, k)] for k in names}


def _entropy(logits: Logits) -> dict[str, float]:
    found = {}
    for name in ("alpha", "beta", "ratio"):
        tables = [softmax(t) for t in getattr(logits, name)]
        found[name] = float(np.concatenate([-(p * np.log(p)).sum(1) for p in tables]).mean())
    return found
