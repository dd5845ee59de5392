"""The SqueezeNAS supernet as one writes it from the paper: every candidate of a block in turn, weighted and summed.

Its state dict has the names of `edgesmith.pipeline.search.squeezenas_supernet.Supernet`, so weights pass between the two with
`load_state_dict`. Tests compare the two, and bench/supernet_step.py times them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from edgesmith.models.arch import InvertedResidual, Segmentation
from edgesmith.models.ops import conv_bn_relu
from edgesmith.models.squeezenas import Aspp, LrAspp, MbConv, Reduce
from edgesmith.pipeline.search.squeezenas_space import NAMES, Space
from edgesmith.pipeline.search.squeezenas_supernet import Supernet


class PlainSuperblock(nn.Module):
    def __init__(self, cin: int, choices: tuple[InvertedResidual, ...]) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict({name: candidate(cin, block) for name, block in zip(NAMES, choices, strict=True)})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, C, H, W), weights (N, 13)."""
        outputs = [c(x) for c in self.candidates.values()]
        total: Tensor = sum(weights[:, j, None, None, None] * y for j, y in enumerate(outputs))
        return total


class PlainSupernet(nn.Module):
    def __init__(self, space: Space, task: Segmentation) -> None:
        super().__init__()
        macro = space.macro
        widths = [macro.stem_width, *(b.width for b in macro.blocks)]
        self.low_level_block = macro.low_level_block
        self.stem = conv_bn_relu(3, macro.stem_width, 3, stride=2)
        self.blocks = nn.ModuleList(PlainSuperblock(widths[i], space.choices(i)) for i in range(len(space)))
        self.neck = nn.Identity() if macro.neck_width is None else conv_bn_relu(widths[-1], macro.neck_width, 1)
        decoder = {"lraspp": LrAspp, "aspp": Aspp}[macro.decoder]
        low = macro.blocks[macro.low_level_block].width
        self.decoder = decoder(macro.neck_width or widths[-1], low, macro.decoder_width, task.classes)

    def low_logits(self, x: Tensor, weights: Tensor) -> Tensor:
        """x (N, 3, H, W), weights (N, blocks, 13)."""
        x = low = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x, weights[:, i])
            if i == self.low_level_block:
                low = x
        return self.decoder(self.neck(x), low)[0]  # type: ignore[no-any-return]


def path_logits(net: Supernet, x: Tensor, choice: Sequence[int]) -> Tensor:
    """The low-resolution logits of the one architecture that takes candidate `choice[i]` in block `i` of the supernet."""
    x = low = net.stem(x)
    for i, block in enumerate(net.blocks):
        x = block.candidates[NAMES[choice[i]]](x)  # type: ignore[index, operator]
        if i == net.low_level_block:
            low = x
    return net.decoder(net.neck(x), low)[0]  # type: ignore[no-any-return]


def candidate(cin: int, block: InvertedResidual) -> nn.Module:
    if block.op == "mbconv":
        return MbConv(cin, block)
    return nn.Identity() if block.stride == 1 and cin == block.width else Reduce(cin, block)
