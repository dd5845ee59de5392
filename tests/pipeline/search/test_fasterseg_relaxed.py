from __future__ import annotations

import numpy as np
import torch

from edgesmith.pipeline.search.fasterseg_relaxed import Relaxed, Widths
from edgesmith.pipeline.search.fasterseg_space import Space

SPACE = Space(layers=5, ratios=(4, 8, 12))


def test_first_logits_are_equal_and_small() -> None:
    assert all(np.allclose(table, 1e-3) for _, _, table in Relaxed(SPACE).logits().named())


def test_sampled_widths_follow_gamma() -> None:
    relaxed = Relaxed(SPACE)
    gamma = torch.tensor([0.1, 0.6, 0.3])
    with torch.no_grad():
        for table in relaxed.ratio:
            table.copy_(gamma.log().expand_as(table))
    rng = np.random.default_rng(0)
    drawn = [i for _ in range(400) for row in relaxed.sample(rng).index for i in row]
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, gamma.numpy(), atol=0.03)


def test_gates_open_what_the_sampled_width_has_and_carry_the_gradient_of_all_ratios_that_have_it() -> None:
    relaxed = Relaxed(SPACE)
    noise = np.random.default_rng(1).gumbel(size=(SPACE.tensors(0), 3)).astype(np.float32)  # the first that is drawn
    widths = relaxed.sample(np.random.default_rng(1))
    assert widths.gates is not None
    assert [g.shape for g in widths.gates] == [(SPACE.tensors(s), 3) for s in range(3)]
    for gates, index in zip(widths.gates, widths.index, strict=True):
        assert gates.tolist() == [[1.0] * (i + 1) + [0.0] * (2 - i) for i in index]
    widths.gates[0][0, 1].backward()
    # d (p_1 + p_2) / d logits by hand, p = softmax(log gamma + o)
    soft = np.exp(np.log(1 / 3) + noise[0])
    soft /= soft.sum()
    assert widths.index[0][0] == soft.argmax()
    expected = sum(soft[j] * ((np.arange(3) == j) - soft) for j in (1, 2))
    np.testing.assert_allclose(relaxed.ratio[0].grad[0].numpy(), expected, atol=1e-6)  # type: ignore[index]


def test_equal_noise_gives_equal_widths_and_the_teacher_takes_the_widest() -> None:
    relaxed = Relaxed(SPACE)
    one, same, other = (relaxed.sample(np.random.default_rng(seed)).index for seed in (2, 2, 3))
    assert one == same != other
    assert set(sum(Relaxed(SPACE, widest=True).sample(np.random.default_rng(2)).index, ())) == {2}
    assert set(sum(Widths.all(SPACE, 0).index, ())) == {0}
