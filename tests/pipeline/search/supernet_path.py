"""A derived FasterSeg network's weights out of the supernet.

Where skips were dropped, the cells that branches share may come from other layers of the supernet in each branch: they take the
weights of the first branch's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from edgesmith.models.arch import Cell, FasterSeg
from edgesmith.pipeline.search.fasterseg_operators import Operator
from edgesmith.pipeline.search.fasterseg_space import RATES, Net

if TYPE_CHECKING:
    from edgesmith.pipeline.search.fasterseg_supernet import Supercell, Supernet


def path_state(supernet: Supernet, arch: FasterSeg, net: Net, layers: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """The state dict of `models.build(arch, task)` with the supernet's weights, auxiliary heads apart, which it has not.

    `layers` says for each branch of which layer each cell is. Raises ValueError for an
    architecture that is no path.
    """
    space = supernet.space
    chi = space.chi(net)
    if net not in supernet.stems:
        raise ValueError(f"net: this supernet has no {net}")
    if (arch.stem_width, arch.head_ratio) != (chi, chi):
        raise ValueError(
            f"arch: stem and head of ratio {arch.stem_width} and {arch.head_ratio} are not those of the {net}, {chi}"
        )
    if [len(branch) for branch in arch.branches] != [len(of) for of in layers]:
        raise ValueError(f"layers: {[len(of) for of in layers]} of them; needs one a cell: {[len(b) for b in arch.branches]}")

    state: dict[str, Tensor] = {}
    _put(state, "stem", supernet.stems[net])
    for b, (branch, of) in enumerate(zip(arch.branches, layers, strict=True)):
        scale, cin = 0, RATES[0] * chi
        for i, (cell, layer) in enumerate(zip(branch, of, strict=True)):
            operator = _operator(supernet, scale, layer, cell)
            if i >= arch.shared:
                _put_cell(state, f"branches.{b}.{i - arch.shared}", operator, cin, cell)
            elif b == 0:
                _put_cell(state, f"shared.{i}", operator, cin, cell)
            scale, cin = scale + (cell.stride == 2), cell.width
        aggregations = cast(nn.ModuleList, supernet.aggregations[net])
        for step, aggregate in enumerate(cast(nn.ModuleList, aggregations[scale - 1]) if scale else ()):
            _put(state, f"aggregation.{b}.{step}", aggregate)
            name = f"aggregation.{b}.{step}.refine.0.weight"
            fine = arch.map_widths[b][scale - 1 - step]
            state[name] = state[name][:, : RATES[scale - 1 - step] * chi + fine]
    scales = tuple(RATES.index(rate) for rate in arch.last_scales)
    if scales not in space.heads():
        raise ValueError(f"arch: branches end at scales {scales}; this supernet has heads for {space.heads()}")
    _put(state, "", cast(nn.ModuleList, supernet.heads[net])[space.heads().index(scales)])
    return state


def _operator(supernet: Supernet, scale: int, layer: int, cell: Cell) -> Operator:
    i = layer - scale
    if not 0 <= i < supernet.space.cells(scale):
        raise ValueError(f"layers: layer {layer} has no cell at scale {scale}")
    supercell = cast("Supercell", cast(nn.ModuleList, supernet.cells[scale])[i])
    side = supercell.down if cell.stride == 2 else supercell.keep
    if cell.op not in side:
        raise ValueError(f"arch: {cell.op} of stride {cell.stride} in layer {layer} at scale {scale} is not in the supernet")
    return side[cell.op]  # type: ignore[return-value]


def _put_cell(state: dict[str, Tensor], where: str, operator: Operator, cin: int, cell: Cell) -> None:
    """The weights of a cell by the names of `models.fasterseg._cell` at `where`."""
    first, *second = operator.kernels
    chi, rest = divmod(cell.width, first.rate)
    if rest or str(chi) not in first.norms:
        raise ValueError(f"arch: a cell of {cell.width} channels at rate {first.rate} is of no ratio that the supernet has")
    if cell.op == "skip":
        for part in range(first.parts):
            state[f"{where}.parts.{part}.weight"] = first.weight(part, cin, chi)
        _put(state, f"{where}.bn", first.norm(chi))
        return
    # A conv-BN-ReLU is one Sequential; conv x2 is one of two of them. A zoomed one has its layers in `convs`, where the first
    # of two is a Sequential with the ReLU and the second follows it as another.
    names = {
        "conv": [where],
        "conv_x2": [f"{where}.0", f"{where}.1"],
        "zoomed_conv": [f"{where}.convs.0"],
        "zoomed_conv_x2": [f"{where}.convs.0", f"{where}.convs.1"],
    }[cell.op]
    for name, kernel, width in zip(names, (first, *second), (cin, cell.width), strict=False):
        state[f"{name}.0.weight"] = kernel.weight(0, width, chi)
        _put(state, f"{name}.1", kernel.norm(chi))


def _put(state: dict[str, Tensor], name: str, module: nn.Module) -> None:
    state.update({f"{name}.{k}" if name else k: tensor for k, tensor in module.state_dict().items()})
