"""A step of the SqueezeNAS supernet against the plain one: python bench/supernet_step.py [SETTING ...] [--json FILE]

A step is forward, cross-entropy at full size and backward: Small, all 13 candidates alive, batch 2, 768x768, the same mixtures.
Plain is tests/pipeline/search/plain_supernet.py, the supernet as one writes it from the paper.

How steps are held against each other, and what the settings are, stands in steps.py. A setting's row replaces its last one in
the JSON file.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from edgesmith.bench import steps
from edgesmith.bench.steps import SETTINGS, Step


def make(implementation: Literal["plain", "fast"], size: int, bf16: bool) -> Step:
    """The step of one supernet, with batch and mixtures at `size` x `size`."""
    import torch
    import torch.nn.functional as F

    from edgesmith.models.arch import Segmentation
    from edgesmith.pipeline.search.squeezenas_space import space
    from edgesmith.pipeline.search.squeezenas_supernet import Supernet
    from edgesmith.pipeline.training import losses
    from edgesmith.tests.pipeline.search.plain_supernet import PlainSupernet

    torch.manual_seed(0)
    net: Any = {"fast": Supernet, "plain": PlainSupernet}[implementation](space("small"), Segmentation(19))
    torch.manual_seed(1)
    x, labels = torch.randn(2, 3, size, size), torch.randint(0, 19, (2, size, size))
    weights = torch.randn(2, 20, 13).softmax(2).requires_grad_()
    if implementation == "fast":
        net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            low = net.low_logits(x, weights)
        logits = F.interpolate(low.float(), (size, size), mode="bilinear", align_corners=True)
        losses.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        del low, logits
        net.zero_grad()
        weights.grad = None

    return step


def main() -> None:
    parser = steps.parser(__doc__, rounds=4)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.add_argument("--size", type=int, default=768)
    given = parser.parse_args()
    makers = {"plain": partial(make, "plain", given.size), "fast": partial(make, "fast", given.size)}
    for name in given.settings or SETTINGS:
        row = {"size": given.size, **steps.compare(makers, SETTINGS[name], given.rounds)}
        steps.record(given.json, (name,), row)


if __name__ == "__main__":
    main()
