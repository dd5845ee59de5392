from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesmith.models.ops import ZoomedConv, resize


def trained(cin: int, cout: int, **options: int | bool) -> ZoomedConv:
    """A zoomed convolution in eval mode whose batch norms do something."""
    torch.manual_seed(0)
    module = ZoomedConv(cin, cout, **options)  # type: ignore[arg-type]
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.uniform_(m.bias, -0.5, 0.5)
    return module.eval()


def written_out(module: ZoomedConv, x: Tensor, layers: int, stride: int, align_corners: bool) -> Tensor:
    """The operator step by step, from the module's weights alone."""
    tensors = list(module.state_dict().values())
    y = F.interpolate(x, (x.shape[2] // 2, x.shape[3] // 2), mode="bilinear", align_corners=align_corners)
    for i in range(layers):
        weight, gamma, beta, mean, var, _ = tensors[6 * i : 6 * i + 6]
        y = F.conv2d(y, weight, padding=1)
        y = (y - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None] * gamma[:, None, None] + beta[:, None, None]
        if i < layers - 1:
            y = y.clamp(min=0)
    if stride == 1:
        y = F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=align_corners)
    return y.clamp(min=0)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
def test_zoomed_convolution_is_halving_convolution_enlargement_and_then_relu(
    layers: int, stride: int, align_corners: bool
) -> None:
    module = trained(3, 4, layers=layers, stride=stride, align_corners=align_corners)
    x = torch.randn(2, 3, 11, 16)
    with torch.no_grad():
        y = module(x)
        torch.testing.assert_close(y, written_out(module, x, layers, stride, align_corners), rtol=1e-5, atol=1e-5)
        other = written_out(module, x, layers, stride, not align_corners)
    assert not torch.allclose(y, other, atol=1e-2)  # the coordinates matter
    assert (y == 0).any()


def test_corners_are_aligned_unless_said_otherwise() -> None:
    assert ZoomedConv(1, 1).align_corners


@pytest.mark.parametrize(("hw", "small"), [((8, 6), (4, 3)), ((9, 7), (4, 3)), ((1, 1), (1, 1)), ((1, 5), (1, 2))])
def test_the_small_map_is_half_rounded_down_and_never_empty(hw: tuple[int, int], small: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *hw)
    assert ZoomedConv(2, 3).eval()(x).shape == (1, 3, *hw)
    assert ZoomedConv(2, 3, stride=2).eval()(x).shape == (1, 3, *small)


def test_no_convolution_of_it_has_a_stride() -> None:
    convs = [m for m in ZoomedConv(2, 3, layers=2, stride=2).modules() if isinstance(m, nn.Conv2d)]
    assert [c.stride for c in convs] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("options", [{"layers": 3}, {"layers": 0}, {"stride": 4}])
def test_other_forms_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 1 or 2"):
        ZoomedConv(1, 1, **options)  # type: ignore[arg-type]


def test_resizing_to_its_own_size_gives_the_map_itself() -> None:
    x = torch.randn(1, 1, 5, 7)
    assert resize(x, (5, 7), True) is x


def test_aligned_corners_keep_the_corner_values_and_half_pixel_averages() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resize(x, (2, 2), True).flatten().tolist() == [0, 3, 12, 15]
    assert resize(x, (2, 2), False).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
