"""Each published format: told from its content, counted exactly, mapped to requests and probes, and kept whole."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facts.importers import FORMATS, Rejected, detect, import_file, preview, read_cases, read_snippets, write_cases
from facts.importers.formats.engram import record_of
from facts.types import Case, EditRequest, Fact, Probe

DATA = Path(__file__).parent / "data"
# file: format, cases, requests, known facts, probes by kind
FILES: dict[str, tuple[str, int, int, int, dict[str, int]]] = {
    "counterfact.json": ("counterfact", 3, 3, 0, {"paraphrase": 6, "neighborhood": 6, "attribute": 6}),
    "known_1000.json": ("known_1000", 2, 0, 2, {}),
    "zsre.json": ("zsre", 2, 2, 0, {"paraphrase": 2, "unchanged": 2}),
    "zsre_portability.json": ("zsre", 1, 1, 0, {"paraphrase": 1, "unchanged": 1, "one_hop": 1}),
    "counterfact_edit.json": ("counterfact-edit", 2, 2, 0, {"paraphrase": 2, "neighborhood": 1, "unchanged": 1}),
    "knowedit_recent.json": ("knowedit-recent", 2, 2, 0, {"logical": 1, "reasoning": 1, "alias": 1, "same_subject": 3}),
    "knowedit_counterfact.json": (
        "knowedit-counterfact",
        2,
        2,
        0,
        {"paraphrase": 1, "alias": 1, "same_subject": 2, "forgetfulness": 1, "reasoning": 1},
    ),
    "knowedit_zsre.json": ("knowedit-zsre", 1, 1, 0, {"paraphrase": 1, "same_subject": 2, "one_hop": 1}),
    "knowedit_wikibio.json": ("knowedit-wikibio", 1, 1, 0, {"same_subject": 2}),
    "sanitation.json": ("sanitation", 2, 2, 0, {"unchanged": 3}),
    "mquake_cf.json": ("mquake", 1, 2, 0, {"paraphrase": 2, "multi_hop": 3}),
    "mquake_t.json": ("mquake", 1, 1, 0, {"paraphrase": 1, "multi_hop": 3}),
    "rippleedits.json": (
        "rippleedits",
        2,
        2,
        0,
        {"same_subject": 1, "logical": 2, "alias": 1, "one_hop": 1, "compositional_2": 1, "forgetfulness": 1},
    ),
    "wikibigedit.json": ("wikibigedit", 2, 2, 0, {"paraphrase": 4, "multi_hop": 1, "unchanged": 2}),
    "qaedit.json": ("qaedit", 1, 1, 0, {"paraphrase": 1, "unchanged": 5}),
    "cknowedit.json": ("cknowedit", 1, 1, 0, {"paraphrase": 1, "reasoning": 1, "unchanged": 1}),
    "easyedit_requests.json": (
        "easyedit",
        2,
        2,
        0,
        {"paraphrase": 2, "neighborhood": 2, "one_hop": 1, "unchanged": 1},
    ),
    "easyedit_arguments.json": ("easyedit", 2, 2, 0, {"paraphrase": 2, "neighborhood": 2}),
    "easyedit_results.json": ("easyedit", 1, 1, 0, {"paraphrase": 1, "unchanged": 1}),
    "rome.json": ("rome", 2, 2, 0, {}),
    "plain.csv": ("plain", 3, 2, 1, {"paraphrase": 2, "unchanged": 2}),
    "plain.jsonl": ("plain", 3, 2, 1, {"paraphrase": 2}),
}


def cases_of(name: str) -> list[Case]:
    """Every case of a file; a row that cannot be read raises."""
    return list(read_cases(DATA / name))


def probes(case: Case, kind: str) -> list[Probe]:
    """The probes of one kind."""
    return [probe for probe in case.all_probes if probe.kind == kind]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_detected_and_counted(name: str) -> None:
    form, n, n_requests, n_known, kinds = FILES[name]
    assert detect(DATA / name).name == form
    summary = import_file(DATA / name)
    assert (summary.format, summary.cases, summary.requests, summary.known) == (form, n, n_requests, n_known)
    assert summary.probes == Counter(kinds)
    assert summary.rejected == 0
    assert {case.source for case in cases_of(name)} == {form}


@pytest.mark.parametrize("name", FILES)
def test_a_format_that_is_named_is_used(name: str) -> None:
    form, n, *_ = FILES[name]
    assert len(list(read_cases(DATA / name, format=form))) == n


def test_every_format_has_a_file() -> None:
    assert {form for form, *_ in FILES.values()} == set(FORMATS) - {"engram"}


def leaves(value: Any) -> set[str]:
    """Every text and number of a JSON value."""
    if isinstance(value, dict):
        return {leaf for entry in value.values() for leaf in leaves(entry)}
    if isinstance(value, list):
        return {leaf for entry in value for leaf in leaves(entry)}
    return set() if value is None or value == "" else {str(value)}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".json")])
def test_nothing_of_a_row_is_lost(name: str) -> None:
    cases = cases_of(name)
    kept = set().union(*(leaves(record_of(case)) | {fact.prompt for fact in case.facts} for case in cases))
    source = json.loads((DATA / name).read_text(encoding="utf-8"))
    assert leaves(source) <= kept


@pytest.mark.parametrize("name", FILES)
def test_our_own_form_gives_the_same_cases_back(name: str, tmp_path: Path) -> None:
    cases = cases_of(name)
    ours, again = tmp_path / "ours.jsonl", tmp_path / "again.jsonl"
    assert write_cases(cases, ours) == len(cases)
    assert detect(ours).name == "engram"
    assert list(read_cases(ours)) == cases
    write_cases(read_cases(ours), again)
    assert again.read_bytes() == ours.read_bytes()


# file: what to break, and the field the message must name
BROKEN = [
    ("counterfact.json", "requested_rewrite.subject", 5, "requested_rewrite.subject"),
    ("counterfact.json", "requested_rewrite.target_new.str", None, "requested_rewrite.target_new.str"),
    ("counterfact.json", "requested_rewrite.target_new.str", "Spain", "requested_rewrite.target_new"),
    ("counterfact.json", "requested_rewrite.prompt", "{} and {}", "requested_rewrite.prompt"),
    ("counterfact.json", "paraphrase_prompts", ["fine", ["not"]], "paraphrase_prompts[1]"),
    ("known_1000.json", "attribute", None, "attribute"),
    ("zsre.json", "alt", "", "alt"),
    ("zsre_portability.json", "portability.New Answer", None, "portability.New Answer"),
    ("counterfact_edit.json", "target_new", {}, "target_new.str"),
    ("knowedit_recent.json", "portability.Reasoning", "text", "portability.Reasoning"),
    ("knowedit_counterfact.json", "locality.Forgetfulness", [5], "locality.Forgetfulness[0]"),
    ("knowedit_zsre.json", "prompt", "x" * 4001, "prompt"),
    ("knowedit_wikibio.json", "labels", True, "labels"),
    ("mquake_cf.json", "requested_rewrite.1.subject", None, "requested_rewrite[1].subject"),
    ("mquake_cf.json", "new_answer", [], "new_answer"),
    ("mquake_t.json", "questions", [], "questions"),
    ("rippleedits.json", "edit.prompt", "no sentence of theirs", "edit.prompt"),
    ("rippleedits.json", "Logical_Generalization.0.test_condition", "XOR", "Logical_Generalization[0].test_condition"),
    ("rippleedits.json", "Subject_Aliasing.0.test_queries", 7, "Subject_Aliasing[0].test_queries"),
    (
        "rippleedits.json",
        "Logical_Generalization.0.test_queries.0.answers",
        7,
        "Logical_Generalization[0].test_queries[0].answers",
    ),
    ("wikibigedit.json", "mhop_ans", None, "mhop_ans"),
    ("qaedit.json", "locality.2.loc", 3, "locality[2].loc"),
    ("cknowedit.json", "locality_answer", [], "locality_answer"),
    ("easyedit_requests.json", "locality.neighborhood.ground_truth", ["piano"], "locality.neighborhood.ground_truth"),
    ("easyedit_requests.json", "ground_truth", "violin", "target_new"),
    ("rome.json", "target_new.str", 1.5e400, "target_new.str"),
    ("plain.jsonl", "prompt", "", "prompt"),
]


def broken(row: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a row with one value replaced."""
    row = copy.deepcopy(row)
    *parents, last = path.split(".")
    at: Any = row
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value
    return row


@pytest.mark.parametrize(("name", "path", "value", "field"), BROKEN)
def test_a_corrupted_row_names_row_and_field(name: str, path: str, value: Any, field: str, tmp_path: Path) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line] if name.endswith("l") else json.loads(text)
    file = tmp_path / "unnamed"
    file.write_text(json.dumps([*rows, broken(rows[0], path, value), *rows], indent=1), encoding="utf-8")
    aside: list[Rejected] = []
    assert len(list(read_cases(file, on_rejected=aside.append))) == 2 * len(rows)
    (rejected,) = aside
    assert rejected.row == len(rows) + 1
    assert rejected.field == field
    assert json.loads(rejected.raw.replace("Infinity", "1")).keys() == rows[0].keys()
    assert rejected.line == file.read_text(encoding="utf-8").split(rejected.raw)[0].count("\n") + 1


def test_counterfact_becomes_one_request() -> None:
    case = cases_of("counterfact.json")[0]
    (request,) = case.requests
    assert request.fact.prompt == "Autonomous University of Madrid, which is located in"
    assert (request.fact.relation, request.fact.target_true, request.target_new) == ("P17", "Spain", "Sweden")
    assert next((p.prompt, p.answer) for p in request.of_kind("neighborhood")) == (
        "Sierra Nevada is located in",
        "Spain",
    )
    assert {p.answer for p in request.of_kind("attribute")} == {"Sweden"}
    assert len(request.generation_prompts) == 2
    targets = {"target_new": {"id": "Q34"}, "target_true": {"id": "Q29"}}
    assert case.extra == {"pararel_idx": 2796, "requested_rewrite": targets}


def test_known_facts_are_traced_with_their_own_prompt() -> None:
    case = cases_of("known_1000.json")[0]
    assert case.requests == ()
    assert case.known[0].prompt == "Vinson Massif is located in the continent of"
    assert case.extra["template"] == "{} is located in the continent"


def test_zsre_edits_to_the_false_answer() -> None:
    case = cases_of("zsre.json")[0]
    assert case.requests[0].target_new == "University of Michigan"
    assert case.names == (("Illinois Institute of Technology", ("Illinois Tech",)),)
    (location,) = probes(case, "unchanged")
    assert location.prompt.startswith("nq question: ")
    (hop,) = probes(cases_of("zsre_portability.json")[0], "one_hop")
    assert (hop.answer, hop.source) == ("Ann Arbor", "portability.New Question")


def test_a_locality_prompt_with_the_same_answer_is_a_neighbour() -> None:
    first, second = cases_of("counterfact_edit.json")
    assert probes(first, "neighborhood")[0].answer == "French"
    assert probes(second, "unchanged")[0].answer == "Oslo"


def test_knowedit_takes_answers_in_every_shape() -> None:
    recent, accent = cases_of("knowedit_recent.json")
    assert (probes(recent, "logical")[0].answer, probes(recent, "logical")[0].aliases) == ("no", ("incorrect", "false"))
    assert probes(recent, "alias")[0].aliases == ("Berlin, Germany", "DE-BE")
    # Three answers with one name each are not one answer with three names: the grouping is kept.
    logical = recent.extra["portability"]["Logical_Generalization"]
    assert logical == [{"ground_truth": [["no"], ["incorrect"], ["false"]]}]
    assert recent.notes == ("portability.Reasoning[1].ground_truth holds no answer; the prompt is kept but not asked",)
    assert not accent.requests[0].fact.names_subject
    assert accent.extra["subject"] == "Cedric Villani"
    text, nested = cases_of("knowedit_counterfact.json")
    assert [text.requests[0].fact.target_true, nested.requests[0].fact.target_true] == [
        "mayor of Vienna",
        "United States of America",
    ]
    assert dict(nested.aliases)["United States of America"] == ("USA",)


def test_wikibio_rewrites_a_sentence() -> None:
    (case,) = cases_of("knowedit_wikibio.json")
    assert case.requests[0].fact.subject == "john russell reynolds"
    assert case.requests[0].target_new.startswith("He received general education")


def test_sanitation_deals_the_questions_to_keep_out_once() -> None:
    first, second = cases_of("sanitation.json")
    assert [probe.answer for probe in first.all_probes] == ["Oslo", "Pacific"]
    assert [probe.answer for probe in second.all_probes] == ["Picasso"]
    assert first.requests[0].fact.prompt == "What type of creature is the Australian currawong?"


def test_mquake_is_one_case_of_several_edits() -> None:
    (case,) = cases_of("mquake_cf.json")
    assert [request.target_new for request in case.requests] == ["Libya", "Franklin"]
    assert [probe.answer for request in case.requests for probe in request.probes] == ["Libya", "Franklin"]
    first, *_ = case.probes
    # The two hops that are not edited must be known; the two that are edited cannot be.
    assert first.bridge == (
        ("Triple H is employed by", "WWE"),
        ("The chief executive officer of WWE is", "Vince McMahon"),
    )
    assert {(probe.group, probe.group_rule, probe.aliases) for probe in case.probes} == {
        ("questions", "any", ("Franklin, Kentucky",))
    }
    assert dict(case.aliases)["WWE"] == ("World Wrestling Federation",)
    assert case.extra["answer"] == "Washington, D.C."
    assert len(case.extra["new_single_hops"]) == 4
    assert cases_of("mquake_t.json")[0].extra["answer_extended"] == ["Macron I"]


def test_rippleedits_sentences_are_taken_apart() -> None:
    popular, recent = cases_of("rippleedits.json")
    fact = popular.requests[0].fact
    assert (fact.subject, fact.target_true) == ("Leonardo DiCaprio", "United States of America")
    assert fact.template == "The name of the country of citizenship of {} is"
    assert popular.requests[0].target_new == "Syria"
    assert (recent.requests[0].fact.prompt, recent.requests[0].fact.subject) == (
        "Paradise Highway follows",
        "Paradise Highway",
    )
    assert recent.requests[0].target_new == "The Duke of Burgundy"


@pytest.mark.parametrize(
    ("sentence", "old", "subject", "prompt", "new"),
    [
        (
            "The name of the mother of Duke of York is Anne.",
            "",
            "Duke of York",
            "The name of the mother of Duke of York is",
            "Anne",
        ),
        (
            "The place of birth of Ann is South Georgia.",
            "The place of birth of Ann is South Korea.",
            "Ann",
            "The place of birth of Ann is",
            "South Georgia",
        ),
        (
            "The name of the award Eve won is What Is Art.",
            "The name of the award Eve won is Oscar.",
            "Eve",
            "The name of the award Eve won is",
            "What Is Art",
        ),
        (
            "The name of the league which Lions plays in is Premier.",
            "",
            "Lions",
            "The name of the league which Lions plays in is",
            "Premier",
        ),
        (
            "The names of the cast members of The Who are Ann.",
            "",
            "The Who",
            "The names of the cast members of The Who are",
            "Ann",
        ),
        ("Two is followed by Three.", "Two is followed by Four.", "Two", "Two is followed by", "Three"),
        ("The number of children Ida has is 3.", "", "Ida", "The number of children Ida has is", "3"),
        (
            "The name of the currency in Chad is Euro.",
            "",
            "Chad",
            "The name of the currency in Chad is",
            "Euro",
        ),
    ],
)
def test_the_forms_of_rippleedits(sentence: str, old: str, subject: str, prompt: str, new: str, tmp_path: Path) -> None:
    row: dict[str, Any] = {"example_type": "recent", "edit": {"prompt": sentence}, "Forgetfulness": []}
    if old:
        row["edit"]["previous_fact"] = {"prompt": old}
    file = tmp_path / "file"
    file.write_text(json.dumps([row]), encoding="utf-8")
    (case,) = read_cases(file)
    (request,) = case.requests
    assert (request.fact.subject, request.fact.prompt, request.target_new) == (subject, prompt, new)


def test_rippleedits_tests_keep_their_conditions() -> None:
    popular, recent = cases_of("rippleedits.json")
    (mother,) = probes(popular, "same_subject")
    assert mother.source == "Relation_Specifity"
    assert mother.aliases == ("Irmelin Indenbirken", "Irmelin Indenbirken-DiCaprio")
    assert mother.bridge == (("The name of the mother of Leonardo DiCaprio is", "Irmelin DiCaprio"),)
    yes, syria = probes(popular, "logical")
    assert yes.group == syria.group == "Logical_Generalization[0]"
    assert yes.group_rule == syria.group_rule == "all"
    assert (yes.answer, yes.aliases) == ("yes", ("true", "correct"))
    assert probes(recent, "compositional_2")[0].group == ""
    query = popular.extra["Relation_Specifity"][0]["test_queries"][0]
    assert query == {
        "query_type": "regular",
        "subject_id": "Q38111",
        "relation": "MOTHER",
        "target_ids": ["Q22984557"],
        "phrase": None,
    }


def test_wikibigedit_without_its_subject() -> None:
    known, unnamed = cases_of("wikibigedit.json")
    assert known.requests[0].fact.subject == "Marta Cunningham"
    assert known.requests[0].fact.relation == "occupation"
    assert [probe.source for probe in probes(known, "paraphrase")] == ["rephrase", "personas"]
    fact = unnamed.requests[0].fact
    assert fact.subject == fact.prompt == "In which constellation does the star lie?"
    assert unnamed.notes == ("the subject 'Kepler-22' does not occur in the prompt; the whole prompt stands for it",)


def test_a_subject_in_other_capitals_is_found(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text('{"prompt": "who is john smith of leeds", "subject": "John Smith", "target_new": "x"}')
    (case,) = read_cases(file)
    assert case.requests[0].fact.template == "who is {} of leeds"
    assert case.extra == {"subject": "John Smith"}
    assert case.notes == ("the subject 'John Smith' is written 'john smith' in the prompt",)


def test_easyedit_requests_and_arguments() -> None:
    piano, basketball = cases_of("easyedit_requests.json")
    assert [probe.prompt for probe in probes(piano, "neighborhood")] == [
        "Joseph Fischhof, the",
        "Glenn Gould plays the",
    ]
    assert probes(piano, "one_hop")[0].source == "portability.one_hop"
    assert basketball.requests[0].fact.target_true == ""
    assert basketball.extra["ground_truth"] == "<|endoftext|>"
    first, second = cases_of("easyedit_arguments.json")
    assert (first.requests[0].target_new, second.requests[0].target_new) == ("violin", "soccer")
    assert [probe.prompt for probe in probes(second, "neighborhood")] == ["Larry Bird is a professional"]


def test_easyedit_results_hold_their_requests() -> None:
    (case,) = cases_of("easyedit_results.json")
    assert case.requests[0].fact.subject == "Journal of Clinical Microbiology"
    # EasyEdit calls a question of Natural Questions a neighbour; its answer is not the edited fact's.
    assert probes(case, "unchanged")[0].answer == "KOMO-TV"
    assert case.extra["post"]["rewrite_acc"] == [0.8]


def test_blanks_at_the_ends_are_cut_and_kept(tmp_path: Path) -> None:
    row = {"subject": "Ann", "src": "Whose is Ann? ", "alt": " Bob", "answers": ["Eve"], "rephrase": ["a ", "b"]}
    file = tmp_path / "file"
    file.write_text(json.dumps([row]))
    (case,) = read_cases(file)
    (request,) = case.requests
    assert (request.fact.prompt, request.target_new) == ("Whose is Ann?", "Bob")
    assert [probe.prompt for probe in request.probes] == ["a", "b"]
    assert case.extra == {"src": "Whose is Ann? ", "alt": " Bob", "rephrase": ["a ", "b"]}


def test_our_own_form_keeps_blanks(tmp_path: Path) -> None:
    fact = Fact("Ann ", " {} is ", "x ")
    case = Case("a", (EditRequest(fact, " y", (Probe("alias", "p ", " q", aliases=(" r",)),), ("g ",)),))
    write_cases([case], tmp_path / "file")
    assert list(read_cases(tmp_path / "file")) == [case]


def test_lists_of_different_lengths_are_named(tmp_path: Path) -> None:
    arguments = json.loads((DATA / "easyedit_arguments.json").read_text(encoding="utf-8"))
    arguments["locality_inputs"]["neighborhood"]["prompt"].pop()
    file = tmp_path / "file"
    file.write_text(json.dumps(arguments))
    summary = import_file(file)
    assert summary.cases == 0
    assert summary.listed[0].field == "locality_inputs.neighborhood.prompt"


def test_plain_tables() -> None:
    tower, france, colosseum = cases_of("plain.csv")
    assert tower.id == "a"
    assert tower.requests[0].fact.prompt == "The Space Needle is located in the city of"
    assert (probes(tower, "unchanged")[0].prompt, probes(tower, "unchanged")[0].answer) == (
        "The Eiffel Tower is in",
        "Paris",
    )
    assert tower.extra["comment"] == 'a "tower", really'
    assert france.known[0].target_true == "Paris"
    assert probes(colosseum, "paraphrase")[0].prompt == "The Colosseum\nstands in"
    assert probes(colosseum, "unchanged")[0].answer == ""
    with_names, dated, weighed = cases_of("plain.jsonl")
    assert with_names.names == (("Seattle", ("Emerald City",)),)
    assert dated.extra == {"year": 2021}
    assert weighed.extra == {"weight": 0.25}
    assert [case.id for case in (with_names, dated, weighed)] == ["1", "2", "3"]


def test_snippets_are_read_on_their_own() -> None:
    assert read_snippets(DATA / "snippets.json") == {
        ("P17", "Q34"): (("Lund University", "Lund University is in Sweden."),),
        ("P17", "Q29"): (),
    }
    with pytest.raises(ValueError, match="holds reference texts, not facts"):
        detect(DATA / "snippets.json")


def test_a_preview_is_the_beginning() -> None:
    shown = preview(DATA / "counterfact.json", 2)
    assert [case.id for case in shown.cases] == ["0", "1"]
    assert shown.rejected == ()
    assert shown.format.title == "CounterFact, multi_counterfact"


def test_a_newer_form_of_ours_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text('{"engram": 2, "id": "a"}\n')
    assert str(import_file(file).listed[0]) == ("row 1 (line 1): engram is version 2; this program reads version 1")
