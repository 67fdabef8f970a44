"""Many edits: macro means by hand, and what may not be mixed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from facts import EditRequest
from metrics import EditReport, aggregate, evaluate
from metrics.statistics import harmonic_mean
from tests.metrics.cases import FACT, REQUEST, base_model, edited_model


@pytest.fixture(scope="module")
def good() -> EditReport:
    return evaluate(base_model(), edited_model(), REQUEST)


@pytest.fixture(scope="module")
def useless() -> EditReport:
    return evaluate(base_model(), base_model(), REQUEST)


@pytest.fixture(scope="module")
def bare() -> EditReport:
    return evaluate(base_model(), edited_model(), EditRequest(FACT, "New York"))


def test_every_edit_weighs_the_same(good: EditReport, useless: EditReport, bare: EditReport) -> None:
    summary = aggregate([good, useless, bare])
    # ES 1, 0, 1; PS .5, 0, not measured; NS 2/3, 1, not measured.
    assert summary["es"].value == pytest.approx(2 / 3)
    assert summary["ps"].value == pytest.approx(0.25)
    assert (summary["ps"].n, summary["ps"].n_left_out, summary["ps"].n_prompts) == (2, 1, 4)
    assert summary["ns"].value == pytest.approx(5 / 6)
    assert summary["ns"].before == 1
    assert summary["ns_greedy"].value == pytest.approx(0.75)
    assert summary["locality.greedy"] == summary["ns_greedy"]
    assert summary.short() == pytest.approx(
        {"es": 2 / 3, "ps": 0.25, "ns": 5 / 6, "es_greedy": 2 / 3, "ps_greedy": 0.25, "ns_greedy": 0.75}
    )
    assert summary.harmonic == pytest.approx(harmonic_mean([2 / 3, 0.25, 5 / 6]))
    assert summary.n_edits == 3


def test_intervals_are_over_edits(good: EditReport, useless: EditReport) -> None:
    summary = aggregate([good] * 10 + [useless] * 10)
    interval = summary["es"].ci
    assert interval is not None
    assert 0.2 < interval[0] < 0.5 < interval[1] < 0.8
    assert aggregate([good])["es"].ci is None
    assert summary["es"].ci == aggregate([good] * 10 + [useless] * 10)["es"].ci


def test_what_no_edit_measured_is_not_measured(bare: EditReport) -> None:
    summary = aggregate([bare, bare])
    assert summary["ps"].value is None
    assert summary["ps"].change is None
    assert summary.harmonic is None
    frame = summary.to_frame()
    assert frame.loc[frame["name"] == "generalization.greedy", "value"].item() is None


def test_protocols_settings_and_models_are_not_mixed(good: EditReport) -> None:
    with pytest.raises(ValueError, match="different protocols: easyedit, engram"):
        aggregate([good, replace(good, protocol="easyedit")])
    with pytest.raises(ValueError, match="different settings"):
        aggregate([good, replace(good, settings=replace(good.settings, max_new_tokens=5))])
    with pytest.raises(ValueError, match="different models"):
        aggregate([good, replace(good, model_revision="other")])
    with pytest.raises(ValueError, match="no reports"):
        aggregate([])


def test_every_line_says_how_it_was_measured(good: EditReport, useless: EditReport) -> None:
    assert aggregate([good, useless])["es_greedy"].ci is None, "two edits are too few"
    summary = aggregate([good, useless, useless, good], seed=5)
    frame = summary.to_frame()
    assert {tuple(line) for line in frame[["protocol", "model", "revision", "seed"]].to_numpy()} == {
        ("engram", "known", good.model_revision, 5)
    }
    line = frame.set_index("name").loc["reliability.greedy"]
    assert (line["value"], line["n"], line["n_prompts"]) == (0.5, 4, 4)
    assert (line["ci_low"], line["ci_high"]) == summary["es_greedy"].ci
    markdown = summary.to_markdown()
    caption = f"4 edits; model known ({good.model_revision[:12]}); protocol engram, seed 5; intervals over edits"
    assert markdown.startswith(f"{caption}\n\n| Name | Score | Before | After |")
    assert (
        "| reliability.greedy | Says the new answer | 0.0 % | 50.0 % | +50.0 pt | 0.0 to 100.0 % | 4 | 4 |" in markdown
    )
    assert "| locality.perplexity | Perplexity guard | – | not measured | – | – | 0 | 0 |" in markdown
    latex = summary.to_latex()
    assert "\\begin{tabular}{llrrrrrr}" in latex
    assert "Says the new answer & 0.0 \\% & 50.0 \\% &" in latex


def test_unknown_score_names_the_choices(good: EditReport) -> None:
    with pytest.raises(KeyError, match="unknown score 'x'"):
        aggregate([good])["x"]
