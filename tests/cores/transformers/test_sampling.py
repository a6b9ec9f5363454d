"""Tokens are chosen by the sampling settings."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from aios_core.cores.transformers.sampling import Sampler, uniform
from aios_core.errors import SnapshotError
from aios_core.messages import Sampling

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def drawn(sampler: Sampler, count: int = 1_000) -> Counter[int]:
    return Counter(sampler.choose(LOGITS, position) for position in range(count))


def test_greedy_takes_the_most_probable() -> None:
    assert Sampler.of(Sampling()).choose(LOGITS, 0) == 0


def test_tokens_are_drawn_by_their_probability() -> None:
    shares = drawn(Sampler(1.0, 1.0, None, seed=1))

    for token, expected in enumerate((0.5, 0.25, 0.15, 0.1)):
        assert shares[token] / 1_000 == pytest.approx(expected, abs=0.05)


def test_a_high_temperature_evens_out() -> None:
    shares = drawn(Sampler(10.0, 1.0, None, seed=1))

    assert shares[3] / 1_000 == pytest.approx(0.22, abs=0.05)


def test_top_k_leaves_k_tokens() -> None:
    assert set(drawn(Sampler(1.0, 1.0, 2, seed=1))) == {0, 1}


def test_top_p_leaves_the_smallest_set_that_has_so_much() -> None:
    assert set(drawn(Sampler(1.0, 0.74, None, seed=1))) == {0, 1}
    assert set(drawn(Sampler(1.0, 0.76, None, seed=1))) == {0, 1, 2}
    assert set(drawn(Sampler(1.0, 0.01, None, seed=1))) == {0}


def test_a_nucleus_larger_than_the_guess_is_found_all_the_same() -> None:
    flat = torch.zeros(5_000)
    chosen = {Sampler(1.0, 0.99, None, 1).choose(flat, position) for position in range(300)}

    assert max(chosen) > 2_000


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.tensor([0.0, float("-inf"), 0.0])
    chosen = {Sampler(1.0, 0.9, None, 1).choose(logits, position) for position in range(200)}

    assert chosen == {0, 2}


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    assert uniform(1, 5) == uniform(1, 5)
    assert len({uniform(seed, position) for seed in range(30) for position in range(30)}) == 900


def test_the_state_brings_the_sampler_back() -> None:
    sampling = Sampling(temperature=1.0)
    sampler = Sampler.of(sampling)

    assert Sampler.of(sampling, sampler.encode()) == sampler


def test_a_greedy_sampler_has_no_state() -> None:
    assert Sampler.of(Sampling()).encode() is None


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(SnapshotError):
        Sampler.of(Sampling(temperature=1.0), b"abc")


@pytest.mark.parametrize("seed", [-1, 2**80])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    assert Sampler.of(Sampling(temperature=1.0, seed=seed)).choose(LOGITS, 0) in range(4)
