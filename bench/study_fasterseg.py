"""The FasterSeg study on CamVid, as a list of jobs that can be stopped and started again: python bench/study_fasterseg.py

Options are those of study.py, and

    --page OUT.html   what the finished jobs came to, as a page; runs nothing

Needs EDGESMITH_DATA (the folder that holds camvid/). With EDGESMITH_SHARED, whose facts/ hold the authors' latency table, that
table's sensitivities stand beside those measured here. A finished job is appended to docs/measurements/fasterseg.json at once;
one that was stopped goes on where it was. Files lie in runs/study-fasterseg; student/ among them is a whole run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgesmith import models
from edgesmith.bench import study
from edgesmith.bench.fasterseg_jobs import SEARCHES, Study
from edgesmith.pipeline.data.augment import Augment
from edgesmith.pipeline.data.spec import Data
from edgesmith.pipeline.search.fasterseg import FasterSegSearch, Phase
from edgesmith.pipeline.train import Train
from edgesmith.pipeline.training.optim import Optim

HW = (352, 480)
CROPS = Augment(crop_hw=(160, 320), scale=(0.67, 1.33))
DESCENT = Optim(lr=0.03, weight_decay=5e-4, schedule="exponential", decay=0.95, grad_clip=5.0)
CAMVID = Study(
    results=Path("docs/measurements/fasterseg.json"),
    folder=Path("runs/study-fasterseg"),
    data=Data("camvid"),
    classes=11,
    frame_hw=(360, 480),
    hw=HW,
    reference=models.zoo("fasterseg-student"),
    pretraining=FasterSegSearch(
        data=Data("camvid"),
        input_hw=HW,
        precision="bf16",
        val_frames=25,
        pretrain=Phase(10, 4, CROPS, DESCENT),
        alternate=Phase(0, 4, CROPS, replace(DESCENT, lr=0.015)),
    ),
    epochs=15,
    pressure=1.0,
    arch_lr=0.004,
    evaluate_every=3,
    training=Train(  # the recipe camvid-fasterseg's, with fewer epochs
        data=Data("camvid"),
        input_hw=HW,
        epochs=30,
        batch=8,
        optim=Optim(optimizer="adamw", lr=0.002, warmup=0.05, weight_decay=0.02),
        ema=0.997,
        class_weights="log",
        logit_adjustment=0.75,
        aux_weight=0.2,
        precision="bf16",
        augment=Augment(crop_hw=(240, 320), scale=(0.6, 1.6), brightness=0.25, contrast=0.25, saturation=0.25, hue=0.02),
        keep="last",
    ),
    teacher_epochs=70,
)


def main() -> None:
    given = study.parser(__doc__, page=True).parse_args()
    if given.page is not None:
        from edgesmith.bench.page_fasterseg import write_page

        print(write_page([CAMVID.folder_of_search(name) for name in SEARCHES], study.rows(CAMVID.results), given.page))
        return
    study.run(given, CAMVID.results, CAMVID.jobs())


if __name__ == "__main__":
    main()
