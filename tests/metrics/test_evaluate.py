"""The whole evaluation on a model whose every probability is written down in `cases.py`."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from facts import EditRequest, Probe
from facts.watch import Cancelled, Watch
from metrics import METRICS, Efficiency, evaluate
from metrics.definitions import DEFINITIONS
from metrics.report import EditReport
from metrics.statistics import wilson
from tests.metrics.cases import BEFORE, FACT, REQUEST, WORDS, base_model, edited_model
from tests.metrics.known_model import KnownModel

N_WORDS = len(WORDS) + 2


@pytest.fixture(scope="module")
def report() -> EditReport:
    return evaluate(base_model(), edited_model(), REQUEST, guard_texts=["It rained.", "the Tower is in Paris"])


def _values(report: EditReport, name: str) -> tuple[float | None, float | None, int]:
    score = report.score(name)
    return score.before, score.value, score.n


def test_reliability_by_hand(report: EditReport) -> None:
    assert _values(report, "reliability.greedy") == (0, 1, 1)
    assert report.score("reliability.greedy").ci == wilson(1, 1)
    # before: P(New) .1, P(York | New) .5; after: .9 and .9.  "York" is the top token after "New" in both.
    assert _values(report, "reliability.p_answer") == pytest.approx((0.05, 0.81, 1))
    assert _values(report, "reliability.p_other") == pytest.approx((0.8, 0.05, 1))
    assert _values(report, "reliability.token_accuracy") == (0.5, 1, 1)
    assert _values(report, "reliability.rank") == (2, 1, 1)
    row = report.rows_of("reliability")[0]
    assert row.after is not None
    assert row.after.nll_answer == pytest.approx(-(math.log(0.9) + math.log(0.9)) / 2)
    assert row.after.continuation.startswith(" New York and")


def test_comparison_is_normalised_by_length(report: EditReport) -> None:
    # "Tower stands in" after: P(New York) = .6 * .8 = .48 > .3; per token (.6 * .8) ** .5 = .69.  The other paraphrase:
    # P(New) .3, P(York | New) = 1 / words: below P(Paris) = .5 both ways.
    assert _values(report, "generalization.comparison") == (0, 0.5, 2)
    assert _values(report, "generalization.greedy") == (0, 0.5, 2)
    expected = (0.48 + 0.3 / N_WORDS) / 2
    assert report.score("generalization.p_answer").value == pytest.approx(expected)
    # A long answer of likely tokens may win per token where it loses as a whole: .55 ** 2 = .30 < .4 < .55.
    table = {"Tower is in": {"New": 0.55, "Paris": 0.4}, "Tower is in New": {"York": 0.55}}
    model = KnownModel(WORDS, table)
    reading = evaluate(model, model, EditRequest(FACT, "New York")).rows[0].after
    assert reading is not None
    assert reading.p_answer is not None
    assert reading.p_other is not None
    assert reading.p_answer < reading.p_other
    assert reading.prefers_answer


def test_locality_counts_only_what_the_unedited_model_knew(report: EditReport) -> None:
    score = report.score("locality.greedy")
    assert (score.before, score.value, score.n) == (1, 0.5, 2)
    assert score.left_out == (("the unedited model did not know the answer", 1),)
    spire = next(row for row in report.rows if row.prompt == "Spire is in")
    assert not spire.counted
    assert spire.before is not None, "a row that is left out still shows its readings"
    # NS counts all three neighbours, as the paper does.
    assert _values(report, "locality.comparison") == pytest.approx((1, 2 / 3, 3))
    assert _values(report, "locality.same_subject_greedy") == (1, 1, 1)


def test_divergence_by_hand(report: EditReport) -> None:
    rest_before, rest_after = 0.1 / (N_WORDS - 2), 0.1 / (N_WORDS - 2)
    gate = 0.7 * math.log(0.7 / 0.3) + 0.2 * math.log(0.2 / 0.6) + 0.1 * math.log(rest_before / rest_after)
    # Of three neighbours and one same-subject prompt only the Gate moved.
    assert _values(report, "locality.kl") == pytest.approx((0, gate / 4, 4), abs=1e-6)
    assert _values(report, "locality.same_top") == (1, 0.75, 4)


def test_perplexity_by_hand() -> None:
    report = evaluate(base_model(), edited_model(), REQUEST, guard_texts=["Tower is in Paris"])
    # Two words are predicted without knowledge, "Paris" with .8 before and .05 after.
    before = math.exp((2 * math.log(N_WORDS) - math.log(0.8)) / 3)
    after = math.exp((2 * math.log(N_WORDS) - math.log(0.05)) / 3)
    assert _values(report, "locality.perplexity") == pytest.approx((before, after, 1), rel=1e-6)


def test_portability_needs_the_bridge(report: EditReport) -> None:
    hop = report.score("portability.one_hop_greedy")
    assert hop.value is None
    assert hop.n == 0
    assert "did not know the bridge fact" in hop.reason
    assert _values(report, "portability.alias_greedy") == (0, 1, 1)
    assert _values(report, "portability.inverse_greedy") == (0, 0, 1)
    assert _values(report, "portability.greedy") == (0, 0.5, 2)
    assert report.score("portability.greedy").n_left_out == 1


def test_prompts_are_prefixed_as_documented(report: EditReport) -> None:
    prompts = {row.kind: row.prompt for row in report.rows}
    assert prompts["neighborhood_prefixed"] == "Tower is in New York. Spire is in"
    assert prompts["paraphrase_prefixed"] == "Dinner was served in the garden. the Tower is in"


def test_an_edit_that_does_nothing_scores_the_floor() -> None:
    model = base_model()
    report = evaluate(model, model, REQUEST, guard_texts=["the Tower is in"])
    for score in report.scores:
        if score.before is not None:
            assert score.change == 0, score.name
    assert report.score("locality.kl").value == 0
    assert report.score("efficiency.parameters_changed").value == 0


def test_without_probes_scores_are_not_measured() -> None:
    report = evaluate(base_model(), edited_model(), EditRequest(FACT, "New York"))
    for name in DEFINITIONS:
        score = report.score(name)
        if score.metric in ("generalization", "locality", "portability"):
            assert (score.value, score.before, score.change, score.ci, score.n) == (None, None, None, None, 0), name
            assert score.reason.startswith("no "), score.reason
    assert report.headline("efficiency").reason == "no time of an edit stage was recorded"
    assert "NaN" not in report.to_json()
    assert "not measured: no paraphrases were given" in report.to_markdown()


def test_every_defined_score_is_reported_once_and_in_order(report: EditReport) -> None:
    names = [score.name for score in report.scores]
    assert sorted(names) == sorted(DEFINITIONS)
    assert len({score.name for score in report.scores}) == len(names)
    for metric in METRICS:
        assert report.of(metric)[0] == report.headline(metric)
    for definition in DEFINITIONS.values():
        assert definition.sentence.endswith(".")
        assert definition.sentence.count(". ") == 0


def test_a_true_answer_that_is_not_known_is_not_compared() -> None:
    request = EditRequest(replace(FACT, target_true=""), "New York", REQUEST.probes[:2])
    report = evaluate(base_model(), edited_model(), request)
    assert report.score("reliability.comparison").reason == "there is no second answer to compare with"
    assert report.score("generalization.p_other").value is None
    assert report.score("reliability.greedy").value == 1


def test_other_names_of_an_answer_count() -> None:
    table = {**BEFORE, "Tower is in": {"York": 0.9}}
    edited = KnownModel(WORDS, table)
    assert evaluate(base_model(), edited, REQUEST).headline("reliability").value == 0
    named = evaluate(base_model(), edited, REQUEST, aliases={"New York": ["York"]})
    assert named.headline("reliability").value == 1


def test_progress_ends_at_its_total_and_cancelling_stops() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        base_model(),
        edited_model(),
        REQUEST,
        guard_texts=["Tower", "the Tower"],
        watch=Watch(lambda done, of, stage: seen.append((done, of))),
    )
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    with pytest.raises(Cancelled):
        evaluate(base_model(), edited_model(), REQUEST, watch=Watch(cancelled=lambda: True))


class _Broken(KnownModel):
    """An edited model whose weights overflowed."""

    def logits(self, input_ids: torch.Tensor, lengths: object = None, prompt_lengths: object = None) -> torch.Tensor:
        return torch.full((*input_ids.shape, self.d_vocab), math.nan)


def test_a_broken_model_scores_no_success_and_no_nan() -> None:
    report = evaluate(base_model(), _Broken(WORDS, {}), REQUEST, guard_texts=["the Tower"])
    assert report.score("locality.comparison").value == 0
    assert report.score("locality.same_top").value == 0
    assert report.score("locality.kl").reason == "a model gave no finite probability"
    assert report.score("locality.perplexity").value is None
    assert report.score("reliability.p_answer").reason == "a model gave no finite probability"
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


def test_probes_that_cannot_be_run_are_left_out_with_the_reason() -> None:
    probes = (
        Probe("paraphrase", "  ", "New York"),
        Probe("paraphrase", "Tower " * 40 + "is in", "New York"),
        Probe("paraphrase", "Tower stands in", "New York"),
        Probe("same_subject", "Tower is made of", " "),
        Probe("alias", "Old Thing is in", "New York", (("", "Paris"),)),
    )
    report = evaluate(base_model(), edited_model(), EditRequest(FACT, "New York", probes), distractors=())
    score = report.score("generalization.greedy")
    assert (score.value, score.n, score.n_left_out) == (1, 1, 2)
    assert any("empty" in reason for reason, _ in score.left_out)
    assert "no answer is given" in report.score("locality.same_subject_greedy").reason
    assert "bridge" in report.score("portability.greedy").reason
    assert (
        report.score("generalization.prefixed_greedy").reason
        == "no paraphrases behind an unrelated sentence were given"
    )


def test_an_edit_prompt_that_does_not_fit_is_an_error() -> None:
    request = EditRequest(replace(FACT, template="{}" + " is" * 40), "New York")
    with pytest.raises(ValueError, match="edit prompt cannot be evaluated"):
        evaluate(base_model(), edited_model(), request)


def test_the_callers_efficiency_is_kept_and_completed() -> None:
    given = Efficiency(value_seconds=1.5, apply_seconds=0.5, trace_seconds=9.0, peak_memory_bytes=123)
    report = evaluate(base_model(), edited_model(), REQUEST, efficiency=given)
    assert report.headline("efficiency").value == 2.0
    assert report.efficiency.peak_memory_bytes == 123
    assert report.efficiency.evaluate_seconds is not None
    assert report.efficiency.parameters_total == 6


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_without_tokens_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match="max_new_tokens"):
        evaluate(base_model(), edited_model(), REQUEST, max_new_tokens=budget)


def test_a_small_budget_still_sees_the_end_of_a_long_answer() -> None:
    report = evaluate(base_model(), edited_model(), REQUEST, max_new_tokens=1)
    assert report.headline("reliability").value == 1
