from __future__ import annotations

import numpy as np
import pytest
import torch

from edgesmith.pipeline.search.fasterseg_relaxed import Relaxed, Widths, constant, uniform
from edgesmith.pipeline.search.fasterseg_space import Logits, Space

SPACE = Space(layers=5, ratios=(4, 8, 12))


def test_logits_come_back_as_loaded() -> None:
    relaxed = Relaxed(SPACE)
    rng = np.random.default_rng(0)
    first = Logits.uniform(SPACE, "student")
    given = Logits(*(tuple(rng.normal(size=t.shape) for t in tables) for tables in (first.alpha, first.beta, first.ratio)))
    relaxed.load(given)
    for (_, _, a), (_, _, b) in zip(relaxed.logits().named(), given.named(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    with pytest.raises(ValueError, match=r"ratio of scale 0: has shape \(4, 3\); needs \(4, 1\)"):
        Relaxed(SPACE, widest=True).load(given)


def test_first_logits_are_equal_and_small() -> None:
    assert all(np.allclose(table, 1e-3) for _, _, table in Relaxed(SPACE).logits().named())


def test_sampled_widths_follow_gamma() -> None:
    relaxed = Relaxed(SPACE)
    gamma = torch.tensor([0.1, 0.6, 0.3])
    with torch.no_grad():
        for table in relaxed.ratio:
            table.copy_(gamma.log().expand_as(table))
    rng = np.random.default_rng(0)
    drawn = [i for _ in range(400) for row in relaxed.sample(uniform(SPACE, rng)).index for i in row]
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, gamma.numpy(), atol=0.03)


def test_scores_are_one_and_carry_the_gradient_of_the_soft_choice() -> None:
    relaxed = Relaxed(SPACE)
    noise = uniform(SPACE, np.random.default_rng(1))
    widths = relaxed.sample(noise)
    assert widths.score is not None
    assert [len(s) for s in widths.score] == [SPACE.tensors(s) for s in range(3)]
    assert all(torch.equal(s, torch.ones_like(s)) for s in widths.score)
    widths.score[0][0].backward()
    # d softmax(log gamma + o)_j / d logits, by hand
    soft = np.exp(np.log(1 / 3) - np.log(-np.log(noise[0][0])))
    soft /= soft.sum()
    j = widths.index[0][0]
    assert j == soft.argmax()
    expected = soft[j] * ((np.arange(3) == j) - soft)
    np.testing.assert_allclose(relaxed.ratio[0].grad[0].numpy(), expected, atol=1e-6)  # type: ignore[index]


def test_equal_noise_gives_equal_widths_and_the_teacher_takes_the_widest() -> None:
    noise = uniform(SPACE, np.random.default_rng(2))
    relaxed = Relaxed(SPACE)
    assert relaxed.sample(noise).index == relaxed.sample(noise).index
    assert set(sum(Relaxed(SPACE, widest=True).sample(noise).index, ())) == {2}
    assert set(sum(Widths.all(SPACE, 0).index, ())) == {0}


def test_probabilities_of_fixed_logits() -> None:
    alpha, beta = constant(Logits.uniform(SPACE, "student"))
    assert all(torch.allclose(t, torch.full_like(t, 0.2)) for t in alpha)
    assert all(torch.allclose(t, torch.full_like(t, 0.5)) for t in beta)
