"""Every protocol's formula on the example of `cases.py`, whose every probability is written down."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from facts import EditRequest, Fact, Probe
from metrics import evaluate
from metrics.drift import text_nll
from metrics.fluency import References, Snippet
from metrics.protocols import PROTOCOLS, CaseScores, Material, Value, evaluate_under, get_protocol
from metrics.protocols.wild import exact_match, squad_normalise
from metrics.types import Settings
from models import LanguageModel
from tests.metrics.cases import AFTER, BEFORE, FACT, REQUEST, WORDS, base_model, edited_model, evaluate_case
from tests.metrics.known_model import KnownModel
from tests.tiny import tiny_model

N = len(WORDS) + 2
"""Words in the vocabulary; a prefix that is not in the tables gives each of them 1 / N."""


def _numbers(protocol: str, request: EditRequest = REQUEST, material: Material | None = None) -> dict[str, Value]:
    return dict(evaluate_case(base_model(), edited_model(), request, protocol, material=material).values)


def _pair(value: Value) -> tuple[float | None, float | None, int]:
    return value.before, value.after, value.n


def _geometric(*probabilities: float) -> float:
    return math.prod(probabilities) ** (1 / len(probabilities))


def test_rome_by_hand() -> None:
    found = _numbers("rome")
    assert _pair(found["ES"]) == (0, 1, 1)
    # P(New) P(York | New): .1 .5 before, .9 .9 after; P(Paris) .8 and .05.
    assert _pair(found["EM"]) == pytest.approx((_geometric(0.1, 0.5) - 0.8, 0.9 - 0.05, 1))
    # "Tower stands in": .6 .8 against .3; "the Tower is in": .3 1/N against .5.
    assert _pair(found["PS"]) == (0, 0.5, 2)
    after = (_geometric(0.6, 0.8) - 0.3 + _geometric(0.3, 1 / N) - 0.5) / 2
    before = (_geometric(0.1, 1 / N) - 0.7 + _geometric(0.2, 1 / N) - 0.6) / 2
    assert _pair(found["PM"]) == pytest.approx((before, after, 2))
    # The Gate's Paris falls to .3 against New York's .6 .9; the Spire was never known, and still counts.
    assert _pair(found["NS"]) == pytest.approx((1, 2 / 3, 3))
    spire = 0.05 - _geometric(0.05 / (N - 2), 1 / N)
    after = (0.9 - _geometric(0.05, 1 / N) + 0.3 - _geometric(0.6, 0.9) + spire) / 3
    assert found["NM"].after == pytest.approx(after)
    assert found["S"].after == pytest.approx(3 / (1 / 1 + 1 / 0.5 + 3 / 2))
    assert found["S"].before == 0
    # "the Tower is" and "the Tower stands": two bigrams, one trigram, so 1 bit and 0 bits.
    assert _pair(found["GE"]) == pytest.approx((1 / 3, 1 / 3, 1))
    assert found["RS"].reason == "no reference texts were given"


def test_rome_compares_texts_with_the_references_of_the_new_answer() -> None:
    snippets = (Snippet("Tower", "the Tower stands"), Snippet("Hall", "the Hall is"))
    references = References({("located_in", "New York"): snippets, ("located_in", "Lyon"): (Snippet("x", "Lyon"),)})
    found = _numbers("rome", material=Material(references=references))
    whole = [snippet.text for snippet in snippets]
    before, after = references.similarity(["the Tower is"], whole), references.similarity(["the Tower stands"], whole)
    assert _pair(found["RS"]) == pytest.approx((before, after, 1))
    # The text about the Tower itself: "Tower" after "the" is unknown to both; "stands" has .9 after.
    rest = (1 - 0.9) / (N - 1)
    # Two tokens are predicted, and ROME divides by all three.
    expected = ((1 / N * rest) ** (-1 / 3), (1 / N * 0.9) ** (-1 / 3), 1)
    assert _pair(found["essence"]) == pytest.approx(expected, rel=1e-5)


def test_texts_are_cut_at_the_context_and_may_be_lost() -> None:
    """A model of 64 positions reads the first 64 tokens; of an edited one that gives no finite number, none."""
    model = tiny_model("gpt2")
    text = "The Space Needle is a tower in downtown Seattle. " * 12
    references = References({("place", "Rome"): (Snippet("Space Needle", text),)})
    fact = Fact("Space Needle", "The {} is located in", "Seattle", relation="place")
    request = EditRequest(fact, "Rome", generation_prompts=("The Space Needle is",))

    def essence(edited: LanguageModel) -> Value:
        given = evaluate_under(model, edited, request, ("rome",), material=Material(references=references))
        return given["rome"].values["essence"]

    (nll, n), *_ = text_nll(model, [text], max_positions=64)
    assert (n, model.max_positions) == (63, 64)
    assert essence(model).before == pytest.approx(np.exp(nll / 64))
    head = model.weight("lm_head.weight")
    assert essence(model.view({"lm_head.weight": 3e3 * head})).after == pytest.approx(np.finfo(np.float64).max)
    assert essence(model.view({"lm_head.weight": 3e38 * head.sign()})).reason.endswith("gives no finite probability")


def test_easyedit_by_hand() -> None:
    found = _numbers("easyedit")
    # "York" after "New" is the top token before the edit already: half of the answer is right.
    assert _pair(found["rewrite_acc"]) == (0.5, 1, 1)
    # One paraphrase, the first.
    assert _pair(found["rephrase_acc"]) == (0, 1, 1)
    # Bridge keeps Paris, the Gate says New, the Spire goes on saying Lyon, which is wrong and agrees.
    assert _pair(found["locality.neighborhood_acc"]) == pytest.approx((1, 2 / 3, 3))
    assert _pair(found["locality.same_subject_acc"]) == (1, 1, 1)
    assert _pair(found["locality"]) == pytest.approx((1, (2 / 3 + 1) / 2, 4))
    # The unedited model is not asked for the bridge fact: the one-hop prompt counts.
    assert [found[f"portability.{kind}_acc"].after for kind in ("alias", "one_hop", "inverse")] == [1, 0, 0]
    assert found["portability"].after == pytest.approx(1 / 3)
    assert found["portability.logical_acc"].after is None
    assert found["portability.logical_acc"].reason == "no logical prompts were given"
    # "Tower is in Paris" before; "Tower is in New York and" after: 5 bigrams, 4 trigrams.
    before = (2 / 3 * math.log2(3) + 4 / 3 * 1) / 2
    after = (2 / 3 * math.log2(5) + 4 / 3 * 2) / 2
    assert _pair(found["ngram_entropy"]) == pytest.approx((before, after, 1))


def test_easyedits_locality_counts_places_of_the_ground_truth() -> None:
    # The README's own example: two of three tokens agree.  That none of them is the truth does not matter.
    probe = Probe("neighborhood", "Hall is in", "Old Thing there")
    said = {"Hall is in": {"Paris": 0.9}, "Hall is in Old": {"Lyon": 0.9}, "Hall is in Old Thing": {"what": 0.9}}
    base = KnownModel(WORDS, {**BEFORE, **said})
    edited = KnownModel(WORDS, {**AFTER, **said, "Hall is in Old": {"steel": 0.9}})
    found = evaluate_case(base, edited, EditRequest(FACT, "New York", (probe,)), "easyedit").values
    assert found["locality.neighborhood_acc"].after == pytest.approx(2 / 3)


def test_wild_by_hand() -> None:
    found = _numbers("wild")
    # The edited model says "New York and": right as a beginning, no exact match.
    assert _pair(found["reliability"]) == (0, 0, 1)
    # "Tower stands in": "New York" and no more.  "the Tower is in": "Paris".
    assert _pair(found["generalization"]) == (0, 0.5, 2)
    # Of Bridge, Gate, Spire and "Tower is made of" only the Gate's words change.
    assert _pair(found["locality"]) == (1, 0.75, 4)
    # Alias right, one hop and inverse wrong; no bridge is asked for.
    assert found["portability"].after == pytest.approx(1 / 3)


def test_wild_takes_other_names_and_only_whole_answers() -> None:
    settings = Settings(aliases=(("New York", ("the New York and",)),))
    assert _numbers("wild", material=Material(settings))["reliability"].after == 1
    named = replace(REQUEST, probes=(Probe("alias", "Tower is in", "Lyon", aliases=("New York and",)),))
    assert _numbers("wild", named)["portability"].after == 1
    assert squad_normalise(" The  Hague, (a) City. ") == "hague city"
    assert exact_match("the Hague.", ["Hague"])
    assert not exact_match("Hague is", ["Hague"])
    assert not exact_match(" ... ", ["the"])


def test_wild_waits_for_the_natural_stop() -> None:
    # Twenty words before the full stop, more than a first look takes; what follows it is not read.
    words = "there what made of speak people there what made of speak people there what made of speak people in Paris."
    prefixes = [" ".join(["Tower is in", *words.split()[:n]]) for n in range(len(words.split()) + 1)]
    said = {prefix: {word: 0.9} for prefix, word in zip(prefixes, [*words.split(), "steel"], strict=True)}
    model = KnownModel(WORDS, said, max_positions=64)
    request = EditRequest(FACT, words.removesuffix("."))
    assert evaluate_case(model, model, request, "wild").values["reliability"].after == 1


def test_counterfact_plus_by_hand() -> None:
    prefix = "Tower is in New York."
    loud = {
        f"{prefix} Bridge is in": {"Paris": 0.2, "New": 0.7},
        f"{prefix} Bridge is in New": {"York": 0.8},
        f"{prefix} Gate is in": {"Paris": 0.6, "New": 0.1},
        f"{prefix} Gate is in New": {"York": 0.4},
    }
    quiet = {**loud, f"{prefix} Bridge is in": {"Paris": 0.7, "New": 0.2}}
    probes = tuple(probe for probe in REQUEST.probes if probe.prompt in ("Bridge is in", "Gate is in"))
    base, edited = KnownModel(WORDS, {**BEFORE, **quiet}), KnownModel(WORDS, {**AFTER, **loud})
    found = evaluate_case(base, edited, EditRequest(FACT, "New York", probes), "counterfact+").values
    # Bridge: .7 against (.2 .8) before, .2 against (.7 .8) after; Gate: .6 against (.1 .4) in both.
    assert _pair(found["NS+"]) == (1, 0.5, 2)
    gate = 0.6 - _geometric(0.1, 0.4)
    magnitudes = [(right - _geometric(new, 0.8) + gate) / 2 for right, new in ((0.7, 0.2), (0.2, 0.7))]
    assert _pair(found["NM+"]) == pytest.approx((*magnitudes, 2))
    # Paris .7 to .2 and New .2 to .7; what is left is spread alike.
    assert _pair(found["NKL+"]) == pytest.approx((0, (0.7 - 0.2) * math.log(0.7 / 0.2) / 2, 2), abs=1e-6)
    assert found["NKL"].after == pytest.approx(0.7 * math.log(0.7 / 0.3) / 2 + 0.2 * math.log(0.2 / 0.6) / 2, abs=1e-6)
    assert _pair(found["NS"]) == (1, 0.5, 2)


def test_engram_is_what_evaluate_measures() -> None:
    report = evaluate(base_model(), edited_model(), REQUEST)
    found = _numbers("engram")
    assert found.keys() == PROTOCOLS["engram"].definitions.keys()
    for name, value in found.items():
        score = report.score(name)
        assert (value.before, value.after, value.n) == (score.before, score.value, score.n), name
        assert (value.left_out, value.reason) == (score.left_out, score.reason), name


def test_the_same_quantity_is_the_same_number_in_two_protocols() -> None:
    rome, engram, plus = _numbers("rome"), _numbers("engram"), _numbers("counterfact+")
    for short, name in (("ES", "reliability"), ("PS", "generalization"), ("NS", "locality")):
        assert rome[short] == replace(engram[f"{name}.comparison"])
    assert plus["NS"] == rome["NS"]
    assert plus["NS+"] == engram["locality.prefixed_comparison"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_reports_what_it_defines(protocol: str) -> None:
    scores = evaluate_case(base_model(), edited_model(), REQUEST, protocol)
    known = get_protocol(protocol)
    assert scores.values.keys() == known.definitions.keys()
    assert set(known.headlines.values()) <= known.definitions.keys()
    assert (scores.protocol, scores.case, scores.model) == (protocol, "Tower is in", "known")
    assert (scores.revision, scores.edited_revision) == (base_model().revision, edited_model().revision)
    assert CaseScores.from_record(scores.to_record()) == scores
    # An edit that does nothing changes nothing.
    for name, value in evaluate_case(base_model(), base_model(), REQUEST, protocol).values.items():
        assert value.before == value.after, name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_probes_and_without_a_true_answer_little_is_measured_and_nothing_is_zero(protocol: str) -> None:
    bare = EditRequest(replace(FACT, target_true=""), "New York")
    measured = {"engram": "reliability.greedy", "easyedit": "rewrite_acc", "wild": "reliability"}
    for name, value in _numbers(protocol, bare).items():
        if value.after is None:
            assert value.n == 0
            assert value.reason
        else:
            assert name.startswith(("reliability", "rewrite", "ngram"))
    if protocol in measured:
        assert _numbers(protocol, bare)[measured[protocol]].n == 1
    else:
        assert all(value.after is None for value in _numbers(protocol, bare).values())


def test_what_cannot_be_run_is_left_out_with_the_reason() -> None:
    long = " ".join(["there"] * 40)
    probes = (Probe("neighborhood", long, "Paris"), Probe("neighborhood", "Bridge is in", "Paris"))
    request = EditRequest(FACT, "New York", (*probes, Probe("paraphrase", long, "New York")), (long,))
    rome, easyedit, wild = (_numbers(protocol, request) for protocol in ("rome", "easyedit", "wild"))
    assert (rome["NS"].n, rome["NS"].left_out[0][1]) == (1, 1)
    assert "40 tokens" in rome["NS"].left_out[0][0] or "has 40" in rome["NS"].left_out[0][0]
    assert rome["GE"].after is None
    assert easyedit["locality.neighborhood_acc"].n == 1
    assert easyedit["rephrase_acc"].after is None
    assert (wild["locality"].n, wild["generalization"].after) == (1, None)


def test_unknown_protocol_names_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'memit'; choose from engram, rome, easyedit, wild"):
        evaluate_case(base_model(), edited_model(), REQUEST, "memit")
