from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgesmith import models
from edgesmith.models import cost, published, weights
from edgesmith.models.arch import LRASPP_POOL
from edgesmith.models.squeezenas import LrAspp


def counted_macs(module: nn.Module, hw: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, 3, *hw, device="meta"))
    return counter.get_total_flops() // 2


def built_on_meta(arch: models.Arch, task: models.Segmentation) -> nn.Module:
    with torch.device("meta"):
        return models.build(arch, task)


@pytest.mark.parametrize("name", [n for n in models.zoo_names() if n.startswith("squeezenas-")])
def test_published_networks_have_their_counted_macs_and_parameters(name: str) -> None:
    known = published.read(name)
    module = built_on_meta(known.arch, known.task)
    macs = counted_macs(module, known.input_hw)
    assert macs == known.counted["macs"] == cost.macs(known.arch, known.task, known.input_hw)
    assert macs / 1e9 == pytest.approx(known.paper["macs_g"], abs=0.006)
    params = sum(p.numel() for p in module.parameters())
    assert params == known.counted["params"] == cost.params(known.arch, known.task)


@pytest.mark.parametrize("hw", [(64, 64), (97, 131), (65, 200)])
@pytest.mark.parametrize("name", ["squeezenas-lat-small", "squeezenas-lat-xlarge"])
def test_any_input_size_gives_logits_at_that_size(name: str, hw: tuple[int, int]) -> None:
    module = models.build(models.zoo(name), models.Segmentation(3)).eval()
    with torch.no_grad():
        assert module(torch.zeros(2, 3, *hw)).shape == (2, 3, *hw)


def test_lraspp_pools_the_whole_map_only_where_the_published_window_does_not_fit() -> None:
    decoder = LrAspp(4, 4, 8, 3).eval()
    low = torch.zeros(1, 4, 98, 98)
    small, large = torch.randn(1, 4, LRASPP_POOL - 1, 60), torch.randn(1, 4, LRASPP_POOL + 16, LRASPP_POOL)
    with torch.no_grad():
        gate = torch.sigmoid(decoder.gate(small.mean((2, 3), keepdim=True)))
        expected = decoder.high_classifier(
            torch.nn.functional.interpolate(decoder.value(small) * gate, (98, 98), mode="bilinear")
        )
        torch.testing.assert_close(decoder(small, low)[1], expected)
        constant = torch.sigmoid(decoder.gate(large.mean((2, 3), keepdim=True)))
        wrong = decoder.high_classifier(
            torch.nn.functional.interpolate(decoder.value(large) * constant, (98, 98), mode="bilinear")
        )
        assert not torch.allclose(decoder(large, low)[1], wrong, atol=1e-4)


@pytest.mark.parametrize("name", ["squeezenas-mac-small", "squeezenas-lat-xlarge"])
def test_every_parameter_gets_a_gradient(name: str) -> None:
    module = models.build(models.zoo(name), models.Segmentation(3))
    module(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_imported_mac_small_gives_the_authors_outputs(shared: Path) -> None:
    file = shared / "weights/squeezenas/mac_small.pth"
    arch = weights.guess_squeezenas(file)
    assert arch.name == "squeezenas-mac-small"
    module = models.build(arch, models.Segmentation(19)).eval()
    weights.load_into(module, weights.read_squeezenas(file, arch), str(file))
    reference = np.load(shared / "weights/squeezenas/mac_small_reference.npz")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 1024, 2048)
    with torch.no_grad():
        low, full = module.low_logits(x).numpy(), module(x).numpy()  # type: ignore[operator]
    for ours, name in ((low, "logits_os8"), (full[:, :, ::16, ::16], "preds_full_sub16")):
        expected = reference[name].astype(np.float32)
        assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max()
    assert (full.argmax(1)[:, ::4, ::4] == reference["argmax_full_sub4"]).mean() > 0.9999


@pytest.mark.parametrize("name", ["lat_small", "mac_large"])
def test_the_other_released_weights_are_recognised(shared: Path, name: str) -> None:
    arch = weights.guess_squeezenas(shared / f"weights/squeezenas/{name}.pth")
    assert arch.name == "squeezenas-" + name.replace("_", "-")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pth"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04 broken"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.pth"):
            weights.guess_squeezenas(bad)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="weights_only"):
        weights.guess_squeezenas(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_transfer_copies_mapped_rows_and_reports_heads_that_stay_fresh() -> None:
    arch = models.zoo("squeezenas-lat-small")
    torch.manual_seed(1)
    old, new = (models.build(arch, models.Segmentation(n)) for n in (4, 3))
    fresh_row = new.state_dict()["decoder.high_classifier.weight"][2].clone()
    fresh = weights.transfer(new, old.state_dict(), "old", {0: 3, 1: 0})
    assert all("classifier" in name for name in fresh)
    assert len(fresh) == 4
    ours, theirs = new.state_dict(), old.state_dict()
    torch.testing.assert_close(ours["stem.0.weight"], theirs["stem.0.weight"])
    torch.testing.assert_close(ours["decoder.high_classifier.weight"][:2], theirs["decoder.high_classifier.weight"][[3, 0]])
    torch.testing.assert_close(ours["decoder.high_classifier.weight"][2], fresh_row)


def test_weights_of_another_architecture_are_refused() -> None:
    small, large = (models.build(models.zoo(f"squeezenas-mac-{n}"), models.Segmentation(3)) for n in ("small", "large"))
    with pytest.raises(ValueError, match="does not fit"):
        weights.transfer(small, large.state_dict(), "large", {})
