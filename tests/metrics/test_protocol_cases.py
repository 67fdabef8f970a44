"""Cases of several requests, tests of several prompts, and many cases as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from facts import Case, EditRequest, Fact, Probe
from metrics import aggregate, evaluate
from metrics.protocols import PROTOCOLS, CaseScores, Material, Value, base_readings, evaluate_under
from metrics.protocols.summary import summarise
from metrics.statistics import bootstrap, bootstrap_cases, harmonic_mean, harmonic_of_means
from metrics.types import Settings
from tests.metrics.cases import FACT, REQUEST, WORDS, base_model, edited_model, evaluate_case
from tests.metrics.known_model import KnownModel
from tests.metrics.test_real_models import _case
from tests.oracle import protocols as oracle
from tests.oracle import scores as slow

# Two edits made together: the Tower goes to Lyon, and people in Lyon speak English.  What do people at the Tower speak?
TWO = Case(
    id="1561",
    requests=(
        EditRequest(FACT, "Lyon", (Probe("neighborhood", "Bridge is in", "Paris"),)),
        EditRequest(Fact("Lyon", "people in {} speak", "French"), "English"),
    ),
    probes=tuple(
        Probe("multi_hop", prompt, "English", aliases=("Old English",), group="q0", group_rule="any")
        for prompt in ("people there speak", "what people there speak", "Tower people speak")
    ),
)
SAID_BEFORE = {
    "Tower is in": {"Paris": 0.9},
    "people in Lyon speak": {"French": 0.9},
    "Bridge is in": {"Paris": 0.8, "Lyon": 0.1},
    "people there speak": {"French": 0.9},
    "what people there speak": {"French": 0.9},
    "Tower people speak": {"French": 0.9},
}
SAID_AFTER = {
    **SAID_BEFORE,
    "Tower is in": {"Lyon": 0.9},
    "people in Lyon speak": {"French": 0.6, "English": 0.3},
    "what people there speak": {"Old": 0.9},
    "what people there speak Old": {"English": 0.9},
}
BASE, EDITED = KnownModel(WORDS, SAID_BEFORE), KnownModel(WORDS, SAID_AFTER)


def _values(case: Case, protocol: str) -> dict[str, Value]:
    return dict(evaluate_case(BASE, EDITED, case, protocol).values)


def test_a_case_counts_every_request_and_one_test_once() -> None:
    engram = _values(TWO, "engram")
    # The first edit holds, the second does not.
    assert (engram["reliability.greedy"].after, engram["reliability.greedy"].n) == (0.5, 2)
    assert (engram["locality.greedy"].after, engram["locality.greedy"].n) == (1, 1)
    # One of three forms of one question gets an accepted name of the answer: the test is passed, and is one test.
    assert (engram["portability.greedy"].before, engram["portability.greedy"].after) == (0, 1)
    assert engram["portability.greedy"].n == 1
    wild = _values(TWO, "wild")
    assert (wild["reliability"].after, wild["portability"].after, wild["portability"].n) == (0.5, 1, 1)
    # Teacher-forced, the forms are prompts of their own, and no other name of the answer is known.
    easyedit = _values(TWO, "easyedit")
    assert (easyedit["portability.multi_hop_acc"].after, easyedit["portability.multi_hop_acc"].n) == (0, 3)
    assert easyedit["rewrite_acc"].after == 0.5
    rome = _values(TWO, "rome")
    assert (rome["ES"].after, rome["NS"].after, rome["NS"].n) == (0.5, 1, 1)


@pytest.mark.parametrize(("rule", "passed"), [("any", 1.0), ("all", 0.0)])
def test_a_group_passes_by_its_rule(rule: str, passed: float) -> None:
    probes = tuple(replace(probe, group_rule=rule) for probe in TWO.probes)
    alone = Probe("logical", "people there speak", "French")
    case = replace(TWO, probes=(*probes, alone))
    for protocol, name in (("engram", "portability.greedy"), ("wild", "portability")):
        value = _values(case, protocol)[name]
        assert (value.after, value.n) == ((passed + 1) / 2, 2), protocol


def test_prompts_that_should_not_change_need_no_answer() -> None:
    probes = (Probe("unchanged", "Bridge is in", ""), Probe("unchanged", "Tower is in", ""))
    case = Case("unchanged", (EditRequest(FACT, "Lyon", probes),))
    wild, easyedit, engram = (_values(case, protocol) for protocol in ("wild", "easyedit", "engram"))
    assert (wild["locality"].after, wild["locality"].n) == (0.5, 2)
    assert easyedit["locality.unchanged_acc"].left_out == (("no answer is given", 2),)
    assert engram["locality.other_greedy"].after is None
    forgotten = Probe("forgetfulness", "Bridge is in", "Paris")
    kept = _values(Case("kept", (EditRequest(FACT, "Lyon", (forgotten,)),)), "engram")["locality.other_greedy"]
    assert (kept.after, kept.n) == (1, 1)


def test_a_case_without_a_request_cannot_be_evaluated() -> None:
    with pytest.raises(ValueError, match="case '7' has no request, only facts to trace"):
        evaluate_case(BASE, EDITED, Case("7", known=(FACT,)), "rome")


def _scores(**values: float | None) -> CaseScores:
    """A case under ROME's protocol with ES, PS and NS after the edit; half of them before."""
    known = {name: Value(None, None, 0, reason="none") for name in PROTOCOLS["rome"].definitions}
    for name, value in values.items():
        if value is not None:
            known[name] = Value(value / 2, value, 2)
    return CaseScores("rome", "case", known, "known", "a" * 64, "b" * 64, 0, "16 ()")


def test_a_table_is_the_mean_over_cases_and_s_the_harmonic_mean_of_the_means() -> None:
    cases = [_scores(ES=1, PS=1, NS=0.5), _scores(ES=1, PS=0.5, NS=0.5), _scores(ES=0, PS=0.5, NS=None)]
    summary = summarise(cases, seed=3)
    assert summary["ES"].value == pytest.approx(2 / 3)
    assert (summary["NS"].value, summary["NS"].n, summary["NS"].n_left_out) == (0.5, 2, 1)
    assert summary["PS"].ci == bootstrap([1, 0.5, 0.5], seed=3)
    assert summary["S"].value == pytest.approx(harmonic_mean([2 / 3, 2 / 3, 0.5]))
    assert summary["S"].before == pytest.approx(harmonic_mean([1 / 3, 1 / 3, 0.25]))
    assert (summary["S"].n, summary["S"].n_left_out, summary["S"].n_prompts) == (2, 1, 12)
    low, high = summary["S"].ci or (1, 0)
    assert low <= harmonic_mean([2 / 3, 2 / 3, 0.5]) <= high
    assert summary["GE"].value is None
    line = summary.to_frame().set_index("name").loc["S"]
    assert (line["protocol"], line["model"], line["revision"], line["seed"]) == ("rome", "known", "a" * 64, 3)
    assert (line["n"], line["ci_low"], line["ci_high"]) == (2, low, high)
    assert summarise(cases[2:])["S"].value is None
    with pytest.raises(KeyError, match="unknown score 'x'; choose from ES, EM, PS"):
        summary["x"]


def test_the_interval_of_s_resamples_whole_cases() -> None:
    values = np.array([[1.0, 0.5], [0.5, np.nan]])
    # Resamples: twice the first 2/3, the mix hm(.75, .5) = .6, twice the second not defined.
    assert harmonic_of_means(values) == pytest.approx(0.6)
    assert harmonic_of_means(values[[0, 0]]) == pytest.approx(2 / 3)
    assert np.isnan(harmonic_of_means(values[[1, 1]]))
    assert harmonic_of_means(np.array([[0.0, 1.0]])) == 0
    assert bootstrap_cases(values, harmonic_of_means) is None, "two cases are too few"
    # Of three cases, 6 of 27 resamples hold the second twice: hm(2/3, .5) = 4/7; 8 hold it not at all: 2/3.
    assert bootstrap_cases(values[[0, 1, 0]], harmonic_of_means) == pytest.approx((4 / 7, 2 / 3))


def test_protocols_settings_and_models_are_never_averaged() -> None:
    good = _scores(ES=1)
    with pytest.raises(ValueError, match="different protocols: easyedit, rome"):
        summarise([good, replace(good, protocol="easyedit")])
    with pytest.raises(ValueError, match="different models"):
        summarise([good, replace(good, revision="c" * 64)])
    with pytest.raises(ValueError, match="different settings"):
        summarise([good, replace(good, way="5 ()")])
    with pytest.raises(ValueError, match="there are no cases to summarise"):
        summarise([])


def test_a_summary_of_cases_is_the_aggregate_of_reports() -> None:
    models = [(base_model(), edited_model()), (base_model(), base_model())]
    reports = aggregate([evaluate(base, edited, REQUEST) for base, edited in models])
    cases = summarise([evaluate_case(base, edited, REQUEST, "engram") for base, edited in models])
    for score in cases.scores:
        assert score == reports[score.name]


@pytest.mark.parametrize("family", ["gpt_neo", "llama"])
def test_protocols_agree_with_the_slow_versions(family: str) -> None:
    base, edited, request = _case(family)
    found = evaluate_under(base, edited, request)
    fact, new, true = request.fact, request.target_new, request.fact.target_true
    neighbors = request.of_kind("neighborhood")

    def mean(numbers: Sequence[float]) -> float:
        return sum(numbers) / len(numbers)

    easyedit = found["easyedit"].values
    for model, when in ((base, "before"), (edited, "after")):
        assert getattr(easyedit["rewrite_acc"], when) == oracle.easyedit_accuracy(model, fact.prompt, new)
        rome = found["rome"].values
        assert getattr(rome["EM"], when) == pytest.approx(
            oracle.rome_magnitude(model, fact.prompt, new, true), abs=1e-6
        )
        magnitudes = [oracle.rome_magnitude(model, probe.prompt, probe.answer, new) for probe in neighbors]
        assert getattr(rome["NM"], when) == pytest.approx(mean(magnitudes), abs=1e-6)
    agreements = [oracle.easyedit_locality(base, edited, probe.prompt, probe.answer) for probe in neighbors]
    assert easyedit["locality.neighborhood_acc"].after == pytest.approx(mean(agreements))
    plus = [f"{fact.prompt} {new}. {probe.prompt}" for probe in neighbors]
    divergence = mean([slow.divergence(base, edited, prompt) for prompt in plus])
    assert found["counterfact+"].values["NKL+"].after == pytest.approx(divergence, rel=1e-4)


class Merging(KnownModel):
    """Reads the two words "is in" as one token."""

    def tokenize(self, text: str, *, special_tokens: bool = True) -> list[int]:
        return super().tokenize(text.replace("is in", "is_in"), special_tokens=special_tokens)


def test_easyedit_keeps_its_slicing_where_the_answer_merges_with_the_prompt() -> None:
    model = Merging((*WORDS, "is_in"), {"Tower is in": {"Paris": 0.9}})
    # "Tower is" has two tokens, "Tower is_in Paris" three: what is compared is the last one, from place 1.
    request = EditRequest(Fact("Tower", "{} is", "stone"), "in Paris")
    assert evaluate_case(model, model, request, "easyedit").values["rewrite_acc"].after == 1
    # Without the merge the answer has two tokens, and the model gives neither.
    assert evaluate_case(model, model, request, "engram").values["reliability.token_accuracy"].after == 0
    swallowed = evaluate_case(model, model, replace(request, target_new="in"), "easyedit").values["rewrite_acc"]
    assert swallowed.left_out == (("the answer 'in' adds no token to the prompt", 1),)


def test_many_cases_read_at_once_give_the_same_numbers_and_leave_the_models_alone() -> None:
    base, edited, request = _case("gpt2")
    digests = base.weights_digest(), edited.weights_digest()
    cases = [replace(request, probes=request.probes[:4]), replace(request, probes=request.probes[4:])]
    material = Material(Settings(distractors=(), seed=1))
    before = base_readings(base, cases, material=material)
    together = evaluate_under(base, edited, cases[0], material=material, before=before)
    alone = evaluate_under(base, edited, cases[0], material=material)
    for protocol in PROTOCOLS:
        for name, value in alone[protocol].values.items():
            other = together[protocol].values[name]
            assert (other.before, other.after) == pytest.approx((value.before, value.after), abs=1e-6), name
            assert (other.n, other.left_out) == (value.n, value.left_out)
    assert (base.weights_digest(), edited.weights_digest()) == digests
