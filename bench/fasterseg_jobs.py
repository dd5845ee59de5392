"""The jobs of a FasterSeg study: what is searched, trained and timed, in which order, and what a finished job has to say.

study_fasterseg.py has the study that is run, tables_fasterseg.py the tables of its rows.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from edgesmith import models
from edgesmith.bench import study
from edgesmith.bench.fasterseg_networks import LEAN, as_fast_as, random_students, sensitivity
from edgesmith.bench.study import Job
from edgesmith.bench.tables_fasterseg import DISTILLED, RELEASED, SEEDS
from edgesmith.bench.whole_networks import WholeNetworks, against_table
from edgesmith.calibration.table import Table
from edgesmith.calibration.tables import open_table
from edgesmith.deploy.files import read_json, write_json
from edgesmith.models.arch import Arch, Segmentation
from edgesmith.models.cost import macs, params
from edgesmith.pipeline.artifacts import Architecture, SearchResult, Weights, open_artifact
from edgesmith.pipeline.data.spec import Data, open_split
from edgesmith.pipeline.derive import Derive
from edgesmith.pipeline.events import view_for
from edgesmith.pipeline.export import Export
from edgesmith.pipeline.latency.measure import export_pieces, measure, timing_errors
from edgesmith.pipeline.recipe import Recipe
from edgesmith.pipeline.run import run as run_recipe
from edgesmith.pipeline.search import fasterseg_costs
from edgesmith.pipeline.search.fasterseg import FasterSegSearch
from edgesmith.pipeline.search.fasterseg_derive import Target
from edgesmith.pipeline.stage import Pipeline, locked
from edgesmith.pipeline.train import Distil, Train

SEARCHES = {"co-search": True, "search without decoupling": False}
"""Job -> whether it regularises operators, resolutions and widths apart (Eq. 3)."""
UNDECOUPLED = "student without decoupling"
RANDOM = ("random 1", "random 2", "random 3")
LIMIT = 95.0
"""Minutes after which a job stops and waits to be called again."""
PUBLISHED_MS, T_MS = 5.702, 8.3
"""On the authors' GTX 1080 Ti: the sum of the published student in their table, and T of Eq. 5."""


TEACHING = {"": None, DISTILLED: Distil(), RELEASED: Distil(divergence="teacher_student", per="class")}
"""Name -> how a network learns from the teacher of seed 0 beside the labels."""


@dataclass(frozen=True)
class Training:
    """One training of a network that was derived."""

    network: str
    seed: int
    teaching: str = ""
    """A name in TEACHING."""

    @property
    def name(self) -> str:
        return f"{self.network}{self.teaching}, seed {self.seed}"

    @property
    def job(self) -> str:
        return f"train {self.name}"


TEACHER, STUDENT = Training("teacher", 0), Training("student", 0, DISTILLED)
TRAININGS = (
    TEACHER,
    *(Training("student", seed) for seed in SEEDS),
    *(Training("student", seed, DISTILLED) for seed in SEEDS),
    *(Training(name, seed) for name in (UNDECOUPLED, *RANDOM) for seed in SEEDS),
    # The paper trains the pruned teacher with distillation too (section 4.3).
    Training("pruned teacher", 0, DISTILLED),
    *(Training("student", seed, RELEASED) for seed in SEEDS),
)
"""What is to be shown first comes first."""


@dataclass(frozen=True)
class Study:
    """What is searched, trained and timed, and at which sizes. `jobs` names the methods that are jobs."""

    results: Path
    folder: Path
    data: Data
    classes: int
    frame_hw: tuple[int, int]
    hw: tuple[int, int]
    """At which networks run and are timed: multiples of 32, so that zoomed convolutions halve as the others do."""
    reference: Arch
    """The network by whose sum in the table here a millisecond of the paper is translated."""
    pretraining: FasterSegSearch
    """What both searches begin with."""
    epochs: int
    """In which weights and architecture learn in turn."""
    pressure: float
    """What operators, resolutions and widths, each alone, move lambda times the latency term by, added up: in the loss's units,
    and the same for both searches."""
    arch_lr: float
    evaluate_every: int
    training: Train
    """Of every network, from scratch."""
    teacher_epochs: int
    """The teacher's training takes so many epochs instead: it is no part of a comparison, and must be ahead of its students."""
    table_rounds: int = 5
    networks: int = 60
    fitted: int = 10
    """Random networks that are held against the table, and how many of them fit scale and offset."""
    close: float = 0.03
    """How far the table's sum of a random network that the student is compared with may be from the student's, if there are
    such."""
    gradient_batches: int = 8
    network_rounds: int = 7
    network_repeats: int = 5
    threads: int = 1
    """Of every engine that is timed."""

    def jobs(self) -> dict[str, Job]:
        """All jobs in their order."""
        table, searches = "latency table", tuple(SEARCHES)
        search = partial(Job, needs=("pretraining", table), one_thread=True, limit_minutes=LIMIT)
        every = {
            "pretraining": Job(self.pretrain, one_thread=True, limit_minutes=LIMIT),
            "export pieces": Job(self.export_pieces, limit_minutes=LIMIT),
            "export random networks": Job(self.export_random, limit_minutes=LIMIT),
            table: Job(self.measure_table, needs=("export pieces",), timing=True),
            "time random networks": Job(self.time_random, needs=(table, "export random networks"), timing=True),
            "sensitivity": Job(self.sensitivity, needs=(table,)),
            "gradients": Job(self.gradients, needs=("pretraining", table), one_thread=True, limit_minutes=LIMIT),
            **{name: search(partial(self.search, name)) for name in searches},
            "derive": Job(self.derive, needs=(*searches, table)),
            "export the networks": Job(self.export_derived, needs=("derive",)),
            "time the networks": Job(self.time_derived, needs=("derive", "export the networks"), timing=True),
        }
        for t in TRAININGS:
            needs = ("derive", TEACHER.job) if t.teaching else ("derive",)
            every[t.job] = Job(partial(self.train, t), needs=needs, one_thread=True, limit_minutes=LIMIT)
        every["student's bundle"] = Job(self.bundle, needs=(STUDENT.job,), timing=True, limit_minutes=LIMIT)
        return every

    # The table

    @property
    def table_file(self) -> Path:
        return self.folder / "table.json"

    @property
    def task(self) -> Segmentation:
        return Segmentation(self.classes)

    @cached_property
    def table(self) -> Table:
        return Table.read(self.table_file)

    def sum_ms(self, arch: Arch) -> float:
        """Of the pieces' times in the table."""
        return self.table.total(arch, self.task).latency_ms

    @property
    def whole(self) -> WholeNetworks:
        return WholeNetworks(self.folder / "graphs", self.task, self.hw, self.threads)

    def export_pieces(self) -> dict[str, Any]:
        """The graphs of all that the table will hold."""
        pieces = fasterseg_costs.pieces(self.pretraining.space, self.task, self.hw)
        return {"pieces": export_pieces(pieces, self.table_file, log=self._view("export"))}

    def measure_table(self) -> dict[str, Any]:
        """The table of the space at the study's size. Measuring goes on where it stopped."""
        table = measure(
            fasterseg_costs.pieces(self.pretraining.space, self.task, self.hw),
            self.table_file,
            input_hw=self.hw,
            classes=self.classes,
            threads=self.threads,
            rounds=self.table_rounds,
            log=self._view("timing"),
        )
        return {"entries": len(table.entries), "rounds": table.rounds, "digest": table.digest, **timing_errors(table)}

    def to_be_timed(self) -> list[Arch]:
        return list(itertools.islice(random_students(self.pretraining, 1, lean=0.0), self.networks))

    def export_random(self) -> dict[str, Any]:
        return {"graphs": [self.whole.export(arch).name for arch in self.to_be_timed()]}

    def time_random(self) -> dict[str, Any]:
        """Random whole networks against the table: correlation and error, before and after one scale and offset."""
        archs = self.to_be_timed()
        summed = [self.sum_ms(arch) for arch in archs]
        taken = self.whole.times(archs, self.network_rounds, self.network_repeats)
        return against_table(summed, [m["median_ms"] for m in taken], self.fitted)

    def sensitivity(self) -> dict[str, Any]:
        """Table 2 of this device and, where they are at hand, of the authors' times."""
        space, released = self.pretraining.space, None
        if "EDGESMITH_SHARED" in os.environ:
            released = Path(os.environ["EDGESMITH_SHARED"]) / "facts" / "fasterseg_1080ti_lut.json"
        row = {"here": sensitivity(space, self.task, self.hw, self.table)}
        if released is not None and released.is_file():
            theirs = open_table(released)
            row["gtx_1080_ti"] = sensitivity(space, Segmentation(theirs.classes), theirs.input_hw, theirs)
        return row

    # Searches

    def pretrain(self) -> dict[str, Any]:
        """The supernet's weights before any architecture learns, for both searches."""
        folder = self.folder / "pretraining"
        with locked(folder):
            result = Pipeline(folder, self._view()).run("search", SearchResult, self.pretraining)
        history = read_json(result.path / "search.json")["history"]
        losses = [row["pixel_loss"] for row in history]
        return {"epochs": len(history), "pixel_loss": losses, "digest": result.digest}

    def searching(self, decoupled: bool) -> FasterSegSearch:
        """One of the two searches: they differ in the form of the latency term alone.

        At one lambda the decoupled term, whose weights add up to 1, can move far less than the coupled one (a 500th as far by
        the paper's Table 2), and the searches would differ in that. So lambda goes with the term: the pressure is shared out
        evenly, or by what the latency is sensitive to.
        """
        here = self.sum_ms(self.reference) / PUBLISHED_MS
        found = sensitivity(self.pretraining.space, self.task, self.hw, self.table)
        weights = found["weights"] if decoupled else (1, 1, 1)
        moves = sum(w * delta for w, delta in zip(weights, found["delta_ms"].values(), strict=True))
        return replace(
            self.pretraining,
            resource="latency",
            table=str(self.table_file),
            decoupled=decoupled,
            latency_weights="balanced",
            latency_weight=float(f"{self.pressure / moves:.4g}"),
            target=Target(float(f"{T_MS * here:.4g}")),
            pretrained=str(self.folder / "pretraining" / "search"),
            alternate=replace(self.pretraining.alternate, epochs=self.epochs),
            arch_lr=self.arch_lr,
            evaluate_every=self.evaluate_every,
        )

    def gradients(self) -> dict[str, Any]:
        """What pulls at the architecture when the searches begin."""
        from edgesmith.bench.fasterseg_gradients import gradients

        return gradients(self.searching(True), self.gradient_batches)

    def folder_of_search(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def search(self, name: str) -> dict[str, Any]:
        """One search: its terms, its course, and the networks that its logits meant on the way."""
        stage = self.searching(SEARCHES[name])
        stage.require_startable()
        folder = self.folder_of_search(name)
        with locked(folder):
            result = Pipeline(folder, self._view()).run("search", SearchResult, stage)
        summary = read_json(result.path / "search.json")
        history = [row for row in summary["history"] if row["phase"] == "search"]
        kept = ("net", "scales", "latency", "val_miou", "target")
        evaluated = [(i, row["networks"]) for i, row in enumerate(history, 1) if "networks" in row]
        return {
            "decoupled": stage.decoupled,
            "pressure": self.pressure,
            "lambda": stage.latency_weight,
            "target": asdict(stage.target),
            "reference_ms": self.sum_ms(self.reference),
            "latency_weights": summary["latency_weights"],
            "arch_lr": stage.arch_lr,
            "epochs": len(history),
            "relaxed_ms": [row["latency"] for row in history],
            "entropy": [row["entropy"] for row in history],
            "chosen": summary["chosen"],
            "evaluated": [{"epoch": i, "networks": [{k: n[k] for k in kept} for n in found]} for i, found in evaluated],
            "digest": result.digest,
        }

    def derive(self) -> dict[str, Any]:
        """The networks that are compared, and three random ones that take as long as the student by the table."""
        cosearch, undecoupled = (open_artifact(SearchResult, self.folder_of_search(name) / "search") for name in SEARCHES)
        found = {
            "teacher": Derive(net="teacher").chosen(cosearch),
            "student": Derive().chosen(cosearch),
            UNDECOUPLED: Derive().chosen(undecoupled),
            "pruned teacher": Derive(net="pruned_teacher").chosen(cosearch),
        }
        others = random_students(self.pretraining, 2, LEAN)
        near = as_fast_as(found["student"], others, self.sum_ms, self.close, len(RANDOM))
        found |= zip(RANDOM, near, strict=True)
        return {"networks": {name: self._known(arch) for name, arch in found.items()}}

    def _known(self, arch: Arch) -> dict[str, Any]:
        return {
            "arch": arch.to_json(),
            "gmacs": macs(arch, self.task, self.hw) / 1e9,
            "params": params(arch, self.task),
            "table_ms": self.sum_ms(arch),
        }

    # The derived networks

    def derived(self) -> dict[str, Arch]:
        rows = study.row_of(self.results, "derive")["networks"]
        return {name: Arch.from_json(row["arch"]) for name, row in rows.items()}

    def export_derived(self) -> dict[str, Any]:
        return {"graphs": [self.whole.export(arch).name for arch in self.derived().values()]}

    def time_derived(self) -> dict[str, Any]:
        archs = self.derived()
        return {"networks": dict(zip(archs, self.whole.times(list(archs.values())), strict=True))}

    def folder_of(self, t: Training) -> Path:
        return self.folder / ("student" if t == STUDENT else t.job.replace(",", "").replace(" ", "-"))

    def stage(self, t: Training) -> Train:
        """The same for all but seed and teacher, and the teacher's own longer."""
        teaching = TEACHING[t.teaching]
        distil = None if teaching is None else replace(teaching, weights=str(self.folder_of(TEACHER) / "train"))
        epochs = self.teacher_epochs if t == TEACHER else self.training.epochs
        return replace(self.training, seed=t.seed, distil=distil, epochs=epochs, val_every=epochs)

    def train(self, t: Training) -> dict[str, Any]:
        """One network from scratch, and its mIoU on the test split."""
        from edgesmith.pipeline.training.fit import evaluate

        folder, arch = self.folder_of(t), self.derived()[t.network]
        with locked(folder):
            write_json(folder / "found.json", arch.to_json())
            pipeline = Pipeline(folder, self._view())
            made = pipeline.run("arch", Architecture, Derive(str(folder / "found.json")))
            weights = pipeline.run("train", Weights, self.stage(t), made)
        last = read_json(weights.path / "history.json")[-1]
        return {
            "network": t.network,
            "distilled": bool(t.teaching),
            "seed": t.seed,
            "arch_digest": arch.digest,
            "epochs": self.stage(t).epochs,
            "loss": last["loss"],
            "val_miou": last["val_miou"],
            "test_miou": evaluate(models.load(weights.path), open_split(self.data, "test"), self.hw),
            "train_digest": weights.digest,
        }

    def bundle(self) -> dict[str, Any]:
        """The run that the student's training is part of, to its end: graph, bundle, validation on the test split, report."""
        folder, stage = self.folder_of(STUDENT), self.stage(STUDENT)
        recipe = Recipe(
            about="The student of the FasterSeg study on CamVid: found by the co-search, taught by its teacher.",
            data=self.data,
            derive=Derive(str(folder / "found.json")),
            train=stage,
            export=Export(self.frame_hw, self.hw),
        )
        done = run_recipe(recipe, "student", folder, self._view())
        if done.weights.digest != study.row_of(self.results, STUDENT.job)["train_digest"]:
            raise RuntimeError(f"{done.weights.path} is not what {STUDENT.job!r} left; its row and this bundle would differ")
        found = read_json(done.validation.path / "validation.json")
        return {
            "test_miou": found["miou"],
            "torch_miou": found["agreement"]["torch_miou"],
            "pixel_agreement": found["agreement"]["pixel_agreement"],
            "bundle_digest": done.bundle.digest,
            "report": str(done.report),
        }

    def _view(self, stage: str = "") -> Any:
        view = view_for(sys.stderr)
        return partial(view, stage=stage) if stage else view
