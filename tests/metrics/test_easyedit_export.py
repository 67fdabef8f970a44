"""Results in EasyEdit's shape, from the worked example of `cases.py`, whose numbers can be read off its tables."""

import json
from dataclasses import replace

import pytest

from facts import Case
from metrics.easyedit_export import easyedit_result
from metrics.protocols import CaseScores
from tests.metrics.cases import REQUEST, base_model, edited_model, evaluate_case

CASE = Case("7", (REQUEST,))


def scores(case: Case = CASE, protocol: str = "easyedit") -> CaseScores:
    """The case's numbers."""
    return evaluate_case(base_model(), edited_model(), case, protocol)


def test_a_case_has_the_fields_easyedit_writes() -> None:
    result = easyedit_result(CASE, scores(), seconds=0.5)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == ["case_id", "requested_rewrite", "time", "pre", "post"]
    assert (result["case_id"], result["time"]) == ("7", 0.5)
    rewrite = result["requested_rewrite"]
    assert (rewrite["prompt"], rewrite["target_new"], rewrite["ground_truth"], rewrite["subject"]) == (
        "Tower is in",
        "New York",
        "Paris",
        "Tower",
    )
    assert rewrite["rephrase_prompt"] == "Tower stands in"
    assert rewrite["locality"] == {
        "neighborhood": {"prompt": ["Bridge is in", "Gate is in", "Spire is in"], "ground_truth": ["Paris"] * 3},
        "Relation_Specificity": {"prompt": ["Tower is made of"], "ground_truth": ["steel"]},
    }
    assert set(rewrite["portability"]) == {"Subject_Aliasing", "one_hop", "inverse"}


def test_a_case_has_the_protocols_numbers() -> None:
    result = easyedit_result(CASE, scores())
    assert "time" not in result
    # Of "New York", only York was the most probable word before, given New; both are after.
    assert (result["pre"]["rewrite_acc"], result["post"]["rewrite_acc"]) == ([0.5], [1.0])
    # The Gate's Paris gives way to New; the Bridge and the Spire stay.
    assert result["post"]["locality"]["neighborhood_acc"] == [pytest.approx(2 / 3)]
    assert result["post"]["locality"]["Relation_Specificity_acc"] == [1.0]
    assert result["post"]["portability"]["Subject_Aliasing_acc"] == [1.0]
    assert "locality" not in result["pre"]
    assert result["pre"]["fluency"].keys() == result["post"]["fluency"].keys() == {"ngram_entropy"}
    meta = result["post"]["metric_meta"]
    assert (meta["protocol"], meta["scorer"], meta["seed"]) == ("easyedit", "teacher-forced", 0)


def test_what_was_not_measured_is_not_there() -> None:
    bare = Case("b", (replace(REQUEST, probes=()),))
    result = easyedit_result(bare, scores(bare))
    assert "rephrase_acc" not in result["post"]
    assert result["post"]["locality"] == {}
    assert "rephrase_prompt" not in result["requested_rewrite"]


def test_several_edits_are_a_list() -> None:
    both = Case("m", (REQUEST, replace(REQUEST, target_new="Lyon", probes=())))
    rewrites = easyedit_result(both, scores(both))["requested_rewrite"]
    assert [rewrite["target_new"] for rewrite in rewrites] == ["New York", "Lyon"]


def test_scores_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="the scores are of the protocol 'rome'"):
        easyedit_result(CASE, scores(protocol="rome"))
    with pytest.raises(ValueError, match="the scores are of case '7', not of '8'"):
        easyedit_result(replace(CASE, id="8"), scores())
