"""The SqueezeNAS study on CamVid, as a list of jobs that can be stopped and started again: python bench/study_squeezenas.py

Options are those of study.py, and

    --page OUT.html   what the finished jobs came to, as a page; runs nothing

Needs EDGESMITH_DATA (the folder that holds camvid/). A finished job is appended to
docs/measurements/squeezenas.json at once; one that was stopped goes on where it was. Files lie in runs/study-squeezenas.
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgesmith import models
from edgesmith.bench import study
from edgesmith.bench.study import Job
from edgesmith.bench.whole_networks import WholeNetworks, against_table
from edgesmith.calibration.table import Table
from edgesmith.deploy.files import read_json, write_json
from edgesmith.models.arch import Arch, Segmentation, SqueezeNas
from edgesmith.models.cost import macs, params
from edgesmith.pipeline.artifacts import Architecture, SearchResult, Weights
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.events import view_for
from edgesmith.pipeline.latency.measure import measure, timing_errors
from edgesmith.pipeline.search.squeezenas import SqueezeNasSearch
from edgesmith.pipeline.search.squeezenas_costs import pieces
from edgesmith.pipeline.search.squeezenas_space import NAMES, space
from edgesmith.pipeline.stage import Pipeline
from edgesmith.pipeline.train import Train
from edgesmith.pipeline.training.optim import Optim

RESULTS = Path("docs/measurements/squeezenas.json")
FOLDER = Path("runs/study-squeezenas")
TABLE = FOLDER / "table.json"
HW = (360, 480)
TASK = Segmentation(11)
THREADS = 1
"""Of every engine that is timed: with two, one and the same graph was seen to switch between two speeds on a shared host."""
WHOLE = WholeNetworks(FOLDER / "graphs", TASK, HW, THREADS)
DATA = Data("camvid")
MAC_BUDGET = 0.25
"""GMACs of the MAC-aware search: about those of the published MAC-S at this size."""
SEEDS = (0, 1)
SEARCHES = {"MAC-found": "search for MACs", "LAT-found": "search for latency"}
"""Network that was found -> the job that found it."""
FOUND = tuple(SEARCHES)
RANDOM = ("random 1", "random 2", "random 3")
NETWORKS, FITTED = 40, 10
"""Random networks that are measured against the table, and how many of them fit scale and offset."""
CLOSE = 0.03
"""How far a random network's latency may be from the budget."""

EARLY = 0.04
"""A limit of removal that acts on a search as short as this one: under the paper's 0.005 hardly a candidate leaves."""

SEARCH = SqueezeNasSearch(
    data=DATA,
    input_hw=HW,
    target=MAC_BUDGET,
    alpha=4.0,
    theta_optimizer="adam",  # whose steps do not depend on how small a gradient is: there are only 630
    theta_lr=0.03,
    theta_from=0.2,
    epochs=14,
    batch=8,
    augment=Augment(crop_hw=(144, 192), scale=(0.3, 0.7)),
    optim=Optim(lr=0.1, warmup=0.05, weight_decay=1e-4, grad_clip=5.0),
    samples=48,
    val_frames=34,
)
TRAIN = Train(
    data=DATA,
    epochs=28,
    batch=8,
    augment=Augment(crop_hw=(240, 320), scale=(0.5, 1.4)),
    optim=Optim(lr=0.05, warmup=0.05, weight_decay=1e-4),
    ema=0.996,
    val_every=28,
    keep="last",
)


def jobs() -> dict[str, Job]:
    """All jobs in their order; timings stand together in as few groups as the questions allow."""
    every = {
        "search for MACs": Job(partial(search, "search-macs", SEARCH)),
        "search for MACs, early removal": Job(partial(search, "search-macs-early", replace(SEARCH, removal=EARLY))),
        "export random networks": Job(export_random),
        "latency table": Job(measure_table, timing=True),
        "time random networks": Job(time_random, timing=True),
        "time the MAC-found network": Job(time_mac_found, timing=True),
        "search for latency": Job(search_latency),
        "time early removal": Job(time_removal, timing=True),
        "export the five": Job(export_five),
        "time the five": Job(time_five, timing=True),
    }
    for name in (*FOUND, *RANDOM):
        for seed in SEEDS:
            every[f"train {name}, seed {seed}"] = Job(partial(train, name, seed), one_thread=True)
    return every


# Searches


def search(name: str, stage: SqueezeNasSearch) -> dict[str, Any]:
    """One search: its course, and what it found under its target."""
    result = Pipeline(FOLDER / name, view_for(sys.stderr)).run("search", SearchResult, stage)
    summary, samples = read_json(result.path / "search.json"), read_json(result.path / "samples.json")
    arch = Derive(budget=stage.target).chosen(result)
    row = next(r for r in samples if r["arch_digest"] == arch.digest)
    history = summary["history"]
    return {
        "resource": stage.resource,
        "alpha": stage.alpha,
        "target": stage.target,
        "removal": stage.removal,
        "epochs": stage.epochs,
        "arch": arch.to_json(),
        "choice": row["choice"],
        "cost": row["cost"],
        "val_miou_in_supernet": row["val_miou"],
        "networks": len(samples),
        "entropy": [r["entropy"] for r in history],
        "alive": [r["alive"] for r in history],
        "pixel_loss": [r["pixel_loss"] for r in history],
        "most_probable": [NAMES[int(np.argmax(p))] for p in summary["probabilities"]],
        "digest": result.digest,
    }


def search_latency() -> dict[str, Any]:
    """The latency-aware search whose budget is the measured latency of the MAC-found network."""
    budget = table_budget()
    # The same pressure as in the MAC-aware search: alpha is a unit of cost's, and the units differ.
    alpha = SEARCH.alpha * SEARCH.target / budget if SEARCH.target else SEARCH.alpha
    stage = replace(SEARCH, resource="latency", table=str(TABLE), target=round(budget, 3), alpha=round(alpha, 4))
    return search("search-latency", stage)


def time_removal(rounds: int = 3) -> dict[str, Any]:
    """Seconds of a step with the candidates that each epoch of the search with early removal had left, and with all."""
    import torch

    from edgesmith.pipeline.search.squeezenas_loop import Searching
    from edgesmith.pipeline.training.checkpoint import Progress
    from edgesmith.pipeline.training.loader import Batches

    history = read_json(FOLDER / "search-macs-early" / "search" / "search.json")["history"]
    batches = Batches(open_split(DATA, "train"), SEARCH.augment, SEARCH.batch, SEARCH.seed)
    batch, device, costs = next(batches.first(1)), torch.device("cpu"), SEARCH.costs()
    left = [len(NAMES) * len(space("small"))] + [row["alive"] for row in history[:-1]]  # at the start of each epoch
    taken: dict[int, list[float]] = {alive: [] for alive in left}
    for _ in range(rounds):
        for alive, seconds in taken.items():
            searching = Searching(SEARCH, TASK, costs, device)
            searching.resume(Progress(history=history[: left.index(alive)]))
            for timed in (False, True):  # the first step meets cold caches
                start = time.perf_counter()
                searching.advance(batch, Progress(), 0.5)
                if timed:
                    seconds.append(time.perf_counter() - start)
    step_s = {alive: statistics.median(each) for alive, each in taken.items()}
    with_s, without_s = (sum(len(batches) * step_s[alive] for alive in each) for each in (left, left[:1] * len(left)))
    return {
        "alive": left,
        "step_s": [round(step_s[alive], 4) for alive in left],
        "steps_an_epoch": len(batches),
        "with_s": round(with_s),
        "without_s": round(without_s),
        "share": round(with_s / without_s, 3),
    }


# Latency


def measure_table() -> dict[str, Any]:
    """The table of the Small space at the study's size. Measuring goes on where it stopped."""
    every = pieces(space("small"), TASK, HW)
    table = measure(every, TABLE, input_hw=HW, classes=TASK.classes, threads=THREADS, log=view_for(sys.stderr))
    return {"entries": len(table.entries), "rounds": table.rounds, **timing_errors(table)}


def random_choices(count: int, seed: int) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randrange(len(NAMES)) for _ in range(len(space("small")))) for _ in range(count)]


def export_random() -> dict[str, Any]:
    archs = [space("small").arch(c, f"network {i}") for i, c in enumerate(random_choices(NETWORKS, 1))]
    return {"graphs": [WHOLE.export(arch).name for arch in archs]}


def time_random() -> dict[str, Any]:
    """Random whole networks against the table: correlation and error, before and after one scale and offset."""
    archs = [space("small").arch(c, f"network {i}") for i, c in enumerate(random_choices(NETWORKS, 1))]
    table = Table.read(TABLE)
    summed = [table.total(a, TASK).latency_ms for a in archs]
    return against_table(summed, [m["median_ms"] for m in WHOLE.times(archs)], FITTED)


def time_mac_found() -> dict[str, Any]:
    """The budget of the latency-aware search, and three random networks that come within 3 % of it."""
    arch, fit, table = found("search for MACs"), row_of("time random networks"), Table.read(TABLE)
    budget = WHOLE.times([arch])[0]
    goal = (budget["median_ms"] - fit["offset_ms"]) / fit["scale"]
    pool = (space("small").arch(c, "random") for c in random_choices(20_000, 2))
    near = list(itertools.islice((a for a in pool if abs(table.total(a, TASK).latency_ms / goal - 1) <= CLOSE / 2), 8))
    taken = WHOLE.times([arch, *near])
    ratio = [t["median_ms"] / taken[0]["median_ms"] for t in taken[1:]]
    order = sorted(range(len(near)), key=lambda i: (max(0.0, abs(ratio[i] - 1) - CLOSE), i))[: len(RANDOM)]
    return {
        **budget,
        "table_ms": table.total(arch, TASK).latency_ms,
        "random": [{"arch": near[i].to_json(), "ratio": ratio[i]} for i in order],
        "tried": len(near),
    }


def table_budget() -> float:
    """The measured budget in the table's terms: the fit over random networks turned around."""
    fit = row_of("time random networks")
    return float((row_of("time the MAC-found network")["median_ms"] - fit["offset_ms"]) / fit["scale"])


def network(name: str) -> Arch:
    """One of the networks that are compared."""
    if name in FOUND:
        return found(SEARCHES[name])
    return Arch.from_json(row_of("time the MAC-found network")["random"][RANDOM.index(name)]["arch"])


def five() -> dict[str, Arch]:
    """The networks that are compared."""
    return {name: network(name) for name in (*FOUND, *RANDOM)}


def export_five() -> dict[str, Any]:
    return {"graphs": [WHOLE.export(arch).name for arch in five().values()]}


def time_five() -> dict[str, Any]:
    table, archs = Table.read(TABLE), five()
    taken = WHOLE.times(list(archs.values()))
    return {
        "networks": {
            name: {
                "arch": arch.to_json(),
                "gmacs": macs(arch, TASK, HW) / 1e9,
                "params": params(arch, TASK),
                "table_ms": table.total(arch, TASK).latency_ms,
                **took,
            }
            for (name, arch), took in zip(archs.items(), taken, strict=True)
        }
    }


# Training


def train(name: str, seed: int) -> dict[str, Any]:
    """One of the five from scratch, the same way as all, and its mIoU on the test split."""
    from edgesmith.pipeline.training.fit import evaluate

    folder = FOLDER / f"train-{name.replace(' ', '-')}-seed{seed}"
    arch = network(name)
    write_json(folder / "found.json", arch.to_json())
    pipeline = Pipeline(folder, view_for(sys.stderr))
    made = pipeline.run("arch", Architecture, Derive(str(folder / "found.json")))
    weights = pipeline.run("train", Weights, replace(TRAIN, seed=seed), made)
    history = read_json(weights.path / "history.json")
    return {
        "network": name,
        "seed": seed,
        "arch_digest": arch.digest,
        "epochs": TRAIN.epochs,
        "val_miou": history[-1]["val_miou"],
        "test_miou": evaluate(models.load(weights.path), open_split(DATA, "test"), HW),
        "train_digest": weights.digest,
    }


# The record


def found(job: str) -> SqueezeNas:
    arch = Arch.from_json(row_of(job)["arch"])
    if not isinstance(arch, SqueezeNas):
        raise TypeError(f"{job} found a {arch.family}")
    return arch


def row_of(job: str) -> dict[str, Any]:
    return study.row_of(RESULTS, job)


def main() -> None:
    given = study.parser(__doc__, page=True).parse_args()
    if given.page is not None:
        from edgesmith.bench.page_squeezenas import write_page

        folders = [FOLDER / name for name in ("search-macs", "search-latency")]
        print(write_page(folders, study.rows(RESULTS), FITTED, given.page))
        return
    study.run(given, RESULTS, jobs())


if __name__ == "__main__":
    main()
