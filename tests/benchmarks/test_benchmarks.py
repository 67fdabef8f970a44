"""The tables and curves, on tiny models with figures that can be checked by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import methods, sequences
from benchmarks.methods import Mean, as_json, measured, run, summarised, table
from benchmarks.parts import held_out
from benchmarks.parts.cases import KINDS, make_cases
from benchmarks.parts.greedy import Question, ask_all
from benchmarks.parts.memory import reset_peak, since_reset
from benchmarks.parts.plots import sequence_figure
from benchmarks.parts.variants import NO_OP, variants
from editing import apply_edits, get_method
from editing.configs import make_config
from editing.train.artefact import Artefact, EditorError, save_artefact
from editing.train.episodes import split_of
from facts import EditRequest, Fact, Probe
from facts.atlas import load_atlas
from metrics import evaluate, matches
from metrics.asking.generation import continuations
from metrics.statistics import bootstrap
from tests.tiny import tiny_model

MODEL = tiny_model("gpt2")
FAST = {"steps": 2, "layer": 2}


def request(subject: str, new: str) -> EditRequest:
    prompt = "{} is in the city of"
    probes = (
        Probe("paraphrase", f"{subject} stands in", new),
        Probe("neighborhood", "The Colosseum is in", MODEL.generate(["The Colosseum is in"], 1)[0].strip() or "Rome"),
        Probe("unchanged", "The Louvre is in", MODEL.generate(["The Louvre is in"], 1)[0].strip() or "Paris"),
    )
    return EditRequest(Fact(subject, prompt, "Seattle"), new, probes)


REQUESTS = [request("The Space Needle", "Paris"), request("The tower", "Rome"), request("Toyota", "Oslo")]
CASES = make_cases(MODEL, REQUESTS)


def test_readings_are_those_of_free_continuations() -> None:
    """Answers the model gives, half gives, gives as the beginning of a longer word, and does not give."""
    prompts = [prompt for one in REQUESTS for prompt in (one.fact.prompt, one.probes[0].prompt)]
    said = continuations(MODEL, dict.fromkeys(prompts, 24))
    asked = [Question(prompt, "Rome", "Rome Italy") for prompt in prompts]
    for prompt in prompts:
        words = said[prompt].split()
        answers = [said[prompt].strip()[:4], *(" ".join(words[:n]) for n in (1, 2)), f"{words[0]}x", "the " + words[0]]
        asked += [Question(prompt, answer) for answer in answers if answer.isascii()]
        asked += [Question(prompt, words[0], " ".join(words[:n])) for n in (2, 3) if words[0].isascii()]
    found = ask_all(MODEL, asked, [asked[0]])
    for question in asked:
        free = said[question.prompt]
        expected = matches(free, (question.answer,), (question.rival,) if question.rival else ())
        assert found[question].right == expected, (question, free)
    assert {found[question].right for question in asked} == {True, False}
    ids = torch.tensor([MODEL.encode(prompts[0])])
    expected_next = MODEL.logits(ids)[0, -1].log_softmax(-1)
    torch.testing.assert_close(found[asked[0]].next_log_probs, expected_next, rtol=1e-5, atol=1e-5)
    assert found[asked[1]].next_log_probs is None
    long = Question("word " * 200, "Rome")
    assert ask_all(MODEL, [long, asked[0]]).keys() == {asked[0]}


def test_a_case_has_the_figures_of_an_evaluation() -> None:
    first, own = REQUESTS[0], MODEL.generate(["The tower is", "Toyota makes"], 24)
    more = (Probe("same_subject", "The tower is", own[0].strip()), Probe("alias", "Toyota makes", "Paris"))
    asked = replace(first, probes=(*first.probes, *more))
    (case,) = make_cases(MODEL, [asked])
    method = get_method("ft-m")
    edit = method.compute(
        MODEL, [asked], make_config(method.config_type, {"layer": 2, "learning_rate": 0.05, "rate_unit": "absolute"})
    )
    edited = apply_edits(MODEL, [edit])
    figures, report = case.figures(edited), evaluate(MODEL, edited, asked, distractors=())
    names = {
        "reliability": "reliability.greedy",
        "generalization": "generalization.greedy",
        "locality_neighborhood": "locality.greedy",
        "locality_same_relation": "locality.other_greedy",
        "locality_same_subject": "locality.same_subject_greedy",
        "portability": "portability.greedy",
        "kl": "locality.kl",
    }
    for key, name in names.items():
        expected = report.score(name).value
        assert figures[key] == (None if expected is None else pytest.approx(expected, rel=1e-4)), key
    assert figures["kl"]
    assert set(figures) == {*KINDS, "kl"}


def test_the_no_op_changes_nothing() -> None:
    line = measured(MODEL, NO_OP, {}, CASES[0])
    assert (line["reliability"], line["generalization"], line["parameters"]) == (0.0, 0.0, 0)
    assert line["kl"] == pytest.approx(0.0, abs=1e-9)  # batches of other sizes round otherwise
    assert line["locality_neighborhood"] in (1.0, None)
    assert line["locality_same_relation"] in (1.0, None)


def test_an_edit_is_measured_and_a_refused_one_counts_as_failed() -> None:
    line = measured(MODEL, "ft-m", {"layer": 2, "steps": 25, "learning_rate": 0.05, "rate_unit": "absolute"}, CASES[0])
    assert line["reliability"] == 1.0
    assert line["parameters"] == 32 * 64
    assert line["seconds"] > 0
    refused = measured(MODEL, "ft-m", {"layer": 99}, CASES[0])
    assert "layer 99 is out of range" in refused["failed"]
    means = summarised([line, refused])
    assert means["reliability"] == Mean(0.5, bootstrap([1.0, 0.0]), 2)
    assert means["kl"].n == 1
    assert means["portability"].value is None


def test_a_method_without_its_editor_is_no_refusal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no trained mend editor"):
        measured(MODEL, "mend", {"artefact": str(tmp_path)}, CASES[0])
    save_artefact(Artefact("mend", "a" * 64, {}, {}, {"w": torch.ones(1)}), tmp_path)
    with pytest.raises(EditorError, match="was trained for weights aaaaaaaaaaaa"):
        measured(MODEL, "mend", {"artefact": str(tmp_path)}, CASES[0])


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ft-m.jsonl"
    first = run(MODEL, "ft-m", FAST, CASES[:2], path)
    seen: list[int] = []
    everything = run(MODEL, "ft-m", FAST, CASES, path, seen.append)
    assert seen == [3]
    assert everything[:2] == first
    assert len(path.read_text().splitlines()) == 4
    assert run(MODEL, "ft-m", FAST, CASES[:1], path) == first[:1]
    with pytest.raises(ValueError, match="another model or other settings"):
        run(MODEL, "ft-m", {"steps": 3, "layer": 2}, CASES, path)
    with pytest.raises(ValueError, match="holds figures of other edits"):
        run(MODEL, "ft-m", FAST, CASES[::-1], path)


def test_table_and_json_hold_the_figures() -> None:
    means = {"rome": {key: Mean(0.5, (0.25, 0.75), 4) for key in (*methods.COLUMNS, "portability")}}
    means["rome"]["peak_bytes"] = Mean(2.0**21, None, 4)
    means["rome"]["portability_alias"] = Mean(None, None, 0)
    text = table(means, 4, "tiny")
    row = next(line for line in text.splitlines() if line.startswith("| rome"))
    assert row.split(" | ")[1] == "50.0 (25–75)"
    assert " | 2 | " in row
    assert "0.500 (0.250–0.750)" in row
    assert " | – | " in row
    assert row.endswith("| 0.500 | 0.500 |")  # change over weight, perplexity
    found = as_json(means, 4)["rome"]
    wanted = (
        "n reliability generalization locality_same_relation locality_same_subject portability kl seconds peak_bytes "
        "relative_change perplexity_ratio"
    )
    assert list(found) == wanted.split()
    assert (found["n"], found["kl"], found["peak_bytes"]) == (4, 0.5, 2.0**21)
    json.dumps(found)


def test_variants_and_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.parts.variants.suggest_layer", lambda model: 2)
    chosen = variants(MODEL)
    assert next(iter(chosen)) == NO_OP
    assert {"rome", "memit", "mend", "ke", "ke+loop", "serac", "rome-code"} <= set(chosen)
    assert chosen["ke+loop"] == ("ke", {"loop": 5})
    assert chosen["rome"][1] == {"layer": 2}
    only = variants(MODEL, ["rome", "rome-code"], ["rome.layer=1", "rome-code.steps=3"])
    assert only["rome"][1] == {"layer": 1}
    assert variants(MODEL, ["rome-code"], ["rome-code.steps=3"])["rome-code"][1]["layer"] == 2
    assert only["rome-code"][1] == {"layer": 1, "compat": "rome-code", "steps": 3}
    with pytest.raises(ValueError, match="unknown method 'rom'; did you mean 'rome'"):
        variants(MODEL, ["rom"])
    with pytest.raises(ValueError, match="unknown setting 'laier'; did you mean 'layer'"):
        variants(MODEL, ["rome"], ["rome.laier=1"])
    with pytest.raises(ValueError, match=r"'rome' is no setting; write METHOD.SETTING=VALUE"):
        variants(MODEL, ["rome"], ["rome"])


def test_held_out_edits_are_of_test_subjects(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = load_atlas()
    every = frozenset((fact.subject, fact.relation) for fact in atlas.facts)
    monkeypatch.setattr(held_out, "known_facts", lambda model, rows, atlas: every)
    monkeypatch.setattr(held_out, "greedy_right", lambda model, asked: [True] * len(asked))
    requests = held_out.held_out_requests(MODEL, atlas, 200)
    assert len({(r.fact.subject, r.fact.relation) for r in requests}) == 200
    assert all(split_of(r.fact.subject) == "test" for r in requests)
    assert len({r.fact.relation for r in requests}) >= 30
    assert requests == held_out.held_out_requests(MODEL, atlas, 200)
    others = held_out.held_out_requests(MODEL, atlas, 100, split="validation")
    assert all(split_of(r.fact.subject) == "validation" for r in others)
    with pytest.raises(ValueError, match="5000 edits were asked for, but"):
        held_out.held_out_requests(MODEL, atlas, 5000)


def test_other_facts_of_the_relation_are_asked_in_the_edits_words_and_in_others() -> None:
    atlas = load_atlas()
    row = next(row for row in atlas.facts if not row.contains_answer)
    template = atlas.relations[row.relation].templates[0]
    plain = EditRequest(atlas.as_fact(row, template), atlas.counterfactual(row, 0))
    (asked,) = held_out.with_same_relation(atlas, [plain], seed=3)
    assert [asked] == held_out.with_same_relation(atlas, [plain], seed=3)
    probes = asked.of_kind("unchanged")
    assert (len(probes), len({probe.prompt for probe in probes})) == (held_out.SAME_RELATION, held_out.SAME_RELATION)
    answers = {other.subject: other.object for other in atlas.facts if other.relation == row.relation}
    for index, probe in enumerate(probes):
        wordings = (template,) if index % 2 == 0 else atlas.relations[row.relation].templates
        subjects = [s for s in answers if probe.prompt in {wording.replace("{}", s) for wording in wordings}]
        assert row.subject not in subjects
        assert probe.answer in {answers[subject] for subject in subjects}


def test_sequences_and_batches() -> None:
    settings = {"layer": 2, "steps": 25, "learning_rate": 0.05, "rate_unit": "absolute"}
    (one, three) = sequences.sequence(MODEL, "ft-m", settings, CASES, [1, 3])
    assert (one["edits"], one["immediate"], one["retention"]) == (1, 1.0, 1.0)
    assert three["edits"] == 3
    assert three["reliability"] <= three["immediate"] == 1.0
    assert three["perplexity"] > 1
    (refused,) = sequences.sequence(MODEL, "ft-m", {"layer": 99}, CASES, [2])
    assert (refused["refused"], refused["immediate"], refused["retention"]) == (2, 0.0, None)
    (batch,) = sequences.batches(MODEL, "ft-m", settings, CASES, [2])
    assert batch["edits"] == 2
    with pytest.raises(ValueError, match="ROME takes one request at a time; measure it with --kind sequential"):
        list(sequences.batches(MODEL, "rome", {"layer": 1}, CASES, [2]))


def test_the_figure_has_a_panel_a_quantity() -> None:
    lines = [{"edits": n, "reliability": 0.9, "locality": None, "perplexity": 10.0 * n} for n in (10, 50, 200)]
    figure = sequence_figure({"memit": lines, "mend": lines[:1]}, "batch")
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "Edits that hold (%)",
        "Neighbours kept (%)",
        "Perplexity of neutral text",
    ]
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [90.0] * 3
    assert figure.axes[0].get_xlabel() == "Edits at once"


def test_the_table_of_a_sequence() -> None:
    line = {"edits": 10, "immediate": 1.0, "reliability": 0.5, "retention": None, "perplexity": 12.345, "seconds": 3.2}
    text = sequences.table({"memit": [line], "no-op": [{"edits": 10, "perplexity": 12.0}]})
    assert text.splitlines()[2:] == [
        "| memit | 10 | 100.0 | 50.0 | – | 12.3 | 3 |",
        "| no-op | 10 | – | – | – | 12 | – |",
    ]


def test_the_peak_is_since_the_reset() -> None:
    held = reset_peak()
    assert held is not None
    low = since_reset()
    assert low is not None
    assert low >= held
    block = bytearray(b"x" * 2**26)
    high = since_reset()
    assert high is not None
    assert high >= low + 2**25
    del block


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert methods.main(["--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "config.json" in capsys.readouterr().err
    assert sequences.main(["--kind", "batch", "--methods", "rome", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
