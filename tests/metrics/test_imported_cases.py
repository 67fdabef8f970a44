"""Cases as datasets bring them, under every protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from facts import Case
from facts.importers import read_cases, read_snippets
from metrics import evaluate
from metrics.protocols import PROTOCOLS, Material, References
from tests.metrics.cases import evaluate_case
from tests.metrics.known_model import KnownModel

DATA = Path(__file__).parents[1] / "facts" / "importers" / "data"


def _first(name: str) -> Case:
    return next(iter(read_cases(DATA / name)))


def _model(case: Case, said: dict[str, str]) -> KnownModel:
    """A model of whole words that goes on as told: prompt -> words."""
    texts = [text for probe in case.all_probes for text in (probe.prompt, probe.answer, *probe.aliases)]
    texts += [text for request in case.requests for text in (request.fact.prompt, request.target_new)]
    texts += [text for request in case.requests for text in (request.fact.target_true, *request.generation_prompts)]
    texts += [text for probe in case.all_probes for pair in probe.bridge for text in pair]
    texts += ["Washington", "Sweden", "Lund University is in Sweden."]  # said by models, and no answer of the case
    words = dict.fromkeys(f"{text}." if end else text for text in " ".join(texts).split() for end in (False, True))
    table = {}
    for prompt, answer in said.items():
        for index, word in enumerate(answer.split()):
            table[" ".join([prompt, *answer.split()[:index]])] = {word: 0.9}
    return KnownModel(list(words), table, max_positions=128)


def test_mquake_passes_with_one_of_three_questions_where_the_other_hops_are_known() -> None:
    case = _first("mquake_cf.json")
    (first, second), bridges = case.requests, dict(case.probes[0].bridge)
    before = {**bridges, first.fact.prompt: first.fact.target_true, second.fact.prompt: second.fact.target_true}
    after = {**before, first.fact.prompt: "Libya", case.probes[1].prompt: "Franklin, Kentucky"}
    base, edited = _model(case, before | {probe.prompt: "Washington" for probe in case.probes}), _model(case, after)
    engram, wild = (evaluate_case(base, edited, case, name).values for name in ("engram", "wild"))
    portability = engram["portability.greedy"]
    assert (portability.before, portability.after, portability.n) == (0, 1, 1)
    assert engram["reliability.greedy"].after == 0.5
    assert (wild["portability"].after, wild["reliability"].after) == (1, 0.5)
    ignorant = _model(case, {first.fact.prompt: "Libya", **{probe.prompt: "Washington" for probe in case.probes}})
    unknown = evaluate_case(ignorant, edited, case, "engram").values["portability.greedy"]
    assert unknown.after is None
    assert "did not know the bridge fact" in unknown.reason


def test_rippleedits_and_conditions_hold_in_both_ways_of_evaluating() -> None:
    case = _first("rippleedits.json")
    (request,) = case.requests
    logical = [probe for probe in case.all_probes if probe.kind == "logical" and probe.group_rule == "all"]
    assert len(logical) == 2
    half = {request.fact.prompt: "Syria", logical[0].prompt: "correct"}
    whole = {**half, logical[1].prompt: "SY"}
    for said, passed in ((half, 0.0), (whole, 1.0)):
        model = _model(case, {**whole, **said} if passed else {**said, logical[1].prompt: "Sweden"})
        base = _model(case, {request.fact.prompt: "Sweden"})
        wild = evaluate_case(base, model, case, "wild").values
        report = evaluate(base, model, request, aliases=dict(case.aliases))
        engram = evaluate_case(base, model, case, "engram").values
        assert engram["portability.greedy"].after == report.score("portability.greedy").value
        assert engram["portability.greedy"].n == report.score("portability.greedy").n
        n = wild["portability"].n
        assert (wild["portability"].after or 0) * n == pytest.approx(passed)
        assert len(report.rows_of("portability")) > n - 1


def test_counterfacts_reference_texts_are_found_by_the_answers_id() -> None:
    case = _first("counterfact.json")
    references = References.from_pairs(read_snippets(DATA / "snippets.json"))
    prompt = case.requests[0].generation_prompts[0]
    base = _model(case, {prompt: "Lund University is in Sweden."})
    found = evaluate_case(base, base, case, "rome", material=Material(references=references)).values
    assert found["RS"].n == 1
    assert (found["RS"].after or 0) > 0
    assert found["NS"].n == len(case.requests[0].of_kind("neighborhood"))


NOTHING_TO_EDIT = ("snippets", "known_1000")
FILES = sorted(path for path in DATA.glob("*.json") if path.stem not in NOTHING_TO_EDIT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_format_can_be_evaluated(path: Path) -> None:
    case = next(case for case in read_cases(path, on_rejected=lambda _: None) if case.requests)
    model = _model(case, {request.fact.prompt: request.target_new for request in case.requests})
    base = _model(case, {})
    for name, protocol in PROTOCOLS.items():
        values = evaluate_case(base, model, case, name).values
        assert values.keys() == protocol.definitions.keys()
        headline = protocol.headlines.get("reliability")
        if headline and headline != "ES":
            assert values[headline].after == 1, name
