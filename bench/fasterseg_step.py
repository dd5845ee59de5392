"""Steps of the FasterSeg search against the plain ones: python bench/fasterseg_step.py [STEP ...] [--setting S] [--json FILE]

Steps, all of the paper's space with 19 classes (sizes as the authors' code has them):

  weight        batch 2, 224x448: gradients of all weights from the teacher's pass, the student's sampled one, its widest and
                its slimmest, five or six heads each
  architecture  the same passes: gradients of both networks' alpha and beta and of the student's gamma. The plain step computes
                the weights' gradients too, as the authors' code does; plain_lean_s is one that does not.
  pretrain      batch 3, 256x512: gradients of all weights from the widest pass, the slimmest and two of random widths

Plain is tests/pipeline/search/plain_fasterseg.py, the supernet as one writes it from the paper, all passes in one loss.

After a step both sides drop their gradients, which is torch's default and what the search does.

How steps are held against each other, and what the settings are, stands in steps.py. A row replaces its last one in the JSON
file.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from edgesmith.bench import steps
from edgesmith.bench.steps import SETTINGS, Maker, Step

STEPS = {"weight": (2, 224, 448), "architecture": (2, 224, 448), "pretrain": (3, 256, 512)}
"""Name -> batch, height, width."""


def make(implementation: Literal["plain", "plain_lean", "fast"], name: str, bf16: bool) -> Step:
    """The step of that name of one supernet, with its batch and both networks' architectures."""
    import numpy as np
    import torch

    from edgesmith.models.arch import Segmentation
    from edgesmith.pipeline.search.fasterseg_relaxed import Pass, Relaxed, Widths
    from edgesmith.pipeline.search.fasterseg_space import Space
    from edgesmith.pipeline.search.fasterseg_step import backward
    from edgesmith.pipeline.search.fasterseg_supernet import Supernet
    from edgesmith.pipeline.training import losses
    from edgesmith.tests.pipeline.search.plain_fasterseg import PlainSupernet, plain_loss

    torch.manual_seed(0)
    space, task = Space(), Segmentation(19)
    net: Any = Supernet(space, task) if implementation == "fast" else PlainSupernet(space, task)
    student, teacher = Relaxed(space), Relaxed(space, widest=True)
    rng = np.random.default_rng(0)
    random = [Widths.random(space, rng) for _ in range(2)]
    n, h, w = STEPS[name]
    x, labels = torch.randn(n, 3, h, w), torch.randint(0, 19, (n, h, w))
    architecture = name == "architecture"
    net.requires_grad_(not architecture or implementation == "plain")
    for one in (student, teacher):
        one.requires_grad_(architecture)

    def step() -> None:
        alpha, beta, _ = student.probabilities()
        teacher_alpha, teacher_beta, _ = teacher.probabilities()
        ends = [Pass("student", alpha, beta, Widths.all(space, i)) for i in (-1, 0)]
        if name == "pretrain":
            passes = [*ends, *(Pass("student", alpha, beta, widths) for widths in random)]
        else:
            searched = Pass("student", alpha, beta, student.sample(rng))
            passes = [Pass("teacher", teacher_alpha, teacher_beta, teacher.sample(rng)), searched, *ends]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if implementation == "fast":
                backward(net, x, labels, passes, losses.ohem)
            else:
                loss = plain_loss(net, x, labels, passes, losses.ohem)
        if implementation != "fast":
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        for module in (net, student, teacher):
            module.zero_grad()

    return step


def main() -> None:
    parser = steps.parser(__doc__, rounds=3)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; default: all")
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="may be repeated; default: all")
    parser.add_argument("--lean", action="store_true", help="also time a plain architecture step without weight gradients")
    given = parser.parse_args()
    for setting in given.setting or SETTINGS:
        for name in given.steps or STEPS:
            makers: dict[str, Maker] = {"plain": partial(make, "plain", name), "fast": partial(make, "fast", name)}
            if given.lean and name == "architecture":
                makers["plain_lean"] = partial(make, "plain_lean", name)
            n, h, w = STEPS[name]
            row = {"batch": n, "size": [h, w], **steps.compare(makers, SETTINGS[setting], given.rounds)}
            steps.record(given.json, (setting, name), row)


if __name__ == "__main__":
    main()
