"""Log probabilities, divergence, cost and the figure, each alone."""

from __future__ import annotations

import math

import pytest
import torch

from metrics import Efficiency, peak_memory_bytes, stopwatch
from metrics.asking.logprobs import batches, score_answers
from metrics.behaviour import neutral_perplexity
from metrics.definitions import METRICS
from metrics.drift import kl_divergence
from metrics.efficiency import weight_change
from metrics.types import Evidence, Measured
from tests.metrics.cases import base_model
from tests.tiny import tiny_model


def test_batches_hold_like_lengths_and_a_bounded_block_of_logits() -> None:
    lengths = dict(enumerate([3, 5, 3, 4, 9, 3]))
    assert list(batches(range(6), lengths, lengths, d_vocab=10)) == [[0, 2, 5, 3], [1], [4]]
    # Room for six places: two rows of three tokens, or one of any other length.
    assert list(batches(range(6), lengths, lengths, d_vocab=2**25 // 6)) == [[0, 2], [5], [3], [1], [4]]
    # Where two are read of each, three rows.
    reads = dict.fromkeys(lengths, 2)
    assert list(batches(range(6), lengths, reads, d_vocab=2**25 // 6)) == [[0, 2, 5], [3, 1], [4]]
    # A row that alone is too large is still run; so many tokens are not run together.
    assert list(batches([7], {7: 7}, {7: 7}, d_vocab=2**25)) == [[7]]
    assert list(batches([0, 1, 2], dict.fromkeys(range(3), 2**13), reads, d_vocab=10)) == [[0, 1], [2]]


def test_answers_are_scored_once_and_their_rank_counts_from_one() -> None:
    seen: list[int] = []
    found = score_answers(base_model(), [("Tower is in", "Paris")] * 3 + [("Tower is in", "New")], tick=seen.append)
    assert sum(seen) == 2
    assert found["Tower is in", "Paris"].rank == 1
    assert found["Tower is in", "New"].rank == 2
    assert found["Tower is in", "New"].nll == pytest.approx(-math.log(0.1))
    assert found["Tower is in", "New"].next_log_probs is None


def test_divergence_of_two_coins_by_hand() -> None:
    fair, biased = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.25, 0.75]).double().log()
    assert kl_divergence(fair, biased) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl_divergence(fair, fair) == 0


def test_perplexity_weighs_tokens_not_texts() -> None:
    before = [(math.log(2) * 9, 9), (math.log(8), 1), (0.0, 0)]
    score = _perplexity(before, before)
    assert score.value == pytest.approx(2 ** ((9 + 3) / 10))
    assert (score.n, score.left_out) == (2, (("fewer than two tokens", 1),))
    assert _perplexity([], []).reason == "no neutral texts were given"
    assert "fewer than two tokens" in _perplexity([(0.0, 0)], [(0.0, 0)]).reason


def _perplexity(before: list[tuple[float, int]], after: list[tuple[float, int]]) -> Measured:
    return neutral_perplexity(Evidence((), 0, list(zip(before, after, strict=True))))


def test_perplexity_beyond_any_float_is_capped() -> None:
    score = _perplexity([(1.0, 1)], [(1e6, 1)])
    assert score.value is not None
    assert math.isfinite(score.value)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_costs_are_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="value_seconds"):
        Efficiency(value_seconds=value)


def test_unmeasured_costs_are_not_zero() -> None:
    evidence = Evidence((), 0, efficiency=Efficiency(solve_seconds=0.5))
    scores = {score.name: score for score in METRICS["efficiency"].scores(evidence)}
    assert scores["efficiency.seconds"].value == 0.5
    assert scores["efficiency.trace_seconds"].value is None
    assert scores["efficiency.trace_seconds"].reason == "no trace time was recorded"
    assert scores["efficiency.parameters_share"].value is None


def test_weight_change_by_hand() -> None:
    base = tiny_model("gpt2")
    name = base.architecture.key_weight_name(0)
    changed = base.weight(name).clone()
    changed[0, 0] += 3
    changed[1, 2] -= 4
    n_changed, total, norm = weight_change(base, base.view({name: changed}))
    assert (n_changed, norm) == (2, pytest.approx(5, rel=1e-5))
    assert weight_change(base, base.view()) == (0, total, 0.0)


def test_stopwatch_and_memory_are_plausible() -> None:
    with stopwatch() as watch:
        sum(range(1000))
    assert 0 < watch.seconds < 10
    peak = peak_memory_bytes()
    assert peak is not None
    assert peak > 2**25
