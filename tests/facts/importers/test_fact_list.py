"""One reader of facts for every command: which facts, what is set aside, and files without true answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facts import Fact
from facts.importers import answered, detect, list_cases, read_cases, read_facts

DATA = Path(__file__).parent / "data"
NEEDLE = {"prompt": "The Space Needle is in", "subject": "Space Needle", "target_new": "Paris"}
KREMLIN = "The Kremlin is in"


def known(number: int, subject: str, attribute: str, template: str, prompt: str, relation: str) -> dict[str, Any]:
    """A row as known_1000 has them."""
    return {
        "known_id": number,
        "subject": subject,
        "attribute": attribute,
        "template": template,
        "prediction": f" {attribute}.",
        "prompt": prompt,
        "relation_id": relation,
    }


KNOWN = [
    known(0, "Vinson Massif", "Antarctica", "{} is located in the continent",
          "Vinson Massif is located in the continent of", "P30"),
    known(1, "Beats Music", "Apple", "{} is owned by", "Beats Music is owned by", "P127"),
    known(2, "Honus Wagner", "baseball", "{} professionally plays the sport",
          "Honus Wagner professionally plays the sport of", "P641"),
    known(3, "Xamarin", "Microsoft", "{}, from", "Xamarin, from the", "P127"),
]  # fmt: skip


def written(folder: Path, rows: Any, name: str = "facts.json") -> Path:
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def test_the_prompt_wins_over_the_template(tmp_path: Path) -> None:
    found = read_facts(written(tmp_path, KNOWN))
    assert [fact.prompt for fact in found.facts] == [row["prompt"] for row in KNOWN]
    assert found.facts[0] == Fact("Vinson Massif", "{} is located in the continent of", "Antarctica", "P30")
    assert found.notes == ()


@pytest.mark.parametrize("name", ["counterfact.json", "zsre.json", "mquake_cf.json", "easyedit_results.json"])
def test_facts_of_rewrites_are_read_in_every_format(name: str) -> None:
    facts = [fact for case in read_cases(DATA / name) for fact in case.facts]
    assert list(read_facts(DATA / name).facts) == [fact for fact in facts if fact.names_subject]


def test_rows_that_cannot_be_read_are_set_aside_counted_and_named(tmp_path: Path) -> None:
    bad = [{**KNOWN[0], "subject": 5}, {**KNOWN[1], "attribute": ""}, *({**KNOWN[1], "prompt": ""} for _ in range(5))]
    rows = [KNOWN[0], *bad, KNOWN[3], {**KNOWN[2], "subject": "Babe Ruth"}]
    found = read_facts(written(tmp_path, rows))
    assert [fact.subject for fact in found.facts] == ["Vinson Massif", "Xamarin"]
    rejected, nameless = found.notes
    assert rejected.startswith("7 rows were set aside: row 2 (line 1): subject is not a text")
    assert "row 3 (line 1): attribute is empty" in rejected
    assert rejected.endswith("; and 2 more")
    assert nameless == (
        "1 fact was set aside, since the prompt does not hold a subject, such as "
        "'Honus Wagner professionally plays the sport of'"
    )
    assert [case.id for case in list_cases(tmp_path / "facts.json", most=1).cases] == ["0"]


def zsre(new: str, *true: str) -> dict[str, Any]:
    """A row as zsRE has them."""
    question = {"subject": "Bears", "src": "What team is Bears?", "rephrase": "Which team?", "loc": "nq question: who"}
    return question | {"alt": new, "answers": list(true), "loc_ans": "me"}


SAME = [
    zsre("Rome", "Oslo"),
    zsre("Oslo", "Oslo"),
    zsre("bern", "Oslo", "Bern"),
    zsre("", "Oslo"),
    zsre("Paris", "Oslo"),
]


def test_rows_that_ask_for_a_true_answer_are_set_aside_and_counted_unless_they_are_wanted(tmp_path: Path) -> None:
    path = written(tmp_path, SAME)
    found = list_cases(path)
    assert [case.requests[0].target_new for case in found.cases] == ["Rome", "Paris"]
    assert (found.unreadable.n, found.same_answers.n, found.n_rejected) == (1, 2, 3)
    assert found.notes == (
        "1 row was set aside: row 4 (line 1): alt is empty; expected a text",
        "2 rows were set aside, since the new answer is a true one: row 2 (line 1): alt is 'Oslo', which is the true "
        "answer too; row 3 (line 1): the new answer 'bern' is another name of the true one, 'Oslo'",
    )
    kept = list_cases(path, keep_same_answers=True)
    assert [(case.requests[0].target_new, case.facts[0].target_true) for case in kept.cases] == [
        ("Rome", "Oslo"),
        ("Oslo", ""),  # there is nothing to compare it with
        ("bern", "Oslo"),
        ("Paris", "Oslo"),
    ]
    assert kept.n_rejected == 1


def test_the_true_answer_of_an_edit_has_the_names_of_the_old_hops(tmp_path: Path) -> None:
    row = json.loads((DATA / "mquake_cf.json").read_text(encoding="utf-8"))[0]
    true, new = (row["requested_rewrite"][0][which]["str"] for which in ("target_true", "target_new"))
    row["single_hops"][0] |= {"answer": true, "answer_alias": [new]}
    (aside,) = list_cases(written(tmp_path, [row])).same_answers.first
    assert aside.reason == f"the new answer {new!r} is another name of the true one, {true!r}"


def test_tables_and_lines_written_by_hand(tmp_path: Path) -> None:
    table = written(tmp_path, "\ufeffsubject,prompt,target_true,relation\nRome,{} is in,Italy,in\n", "facts.csv")
    assert read_facts(table).facts == (Fact("Rome", "{} is in", "Italy", "in"),)
    rows = [
        {"subject": "Rome", "template": "{} is in", "answer": " Italy", "relation": "in", "id": 3},
        {"subject": "Oslo", "prompt": "so Oslo is in", "target_true": "Norway"},
    ]
    lines = written(tmp_path, "\n\n".join(map(json.dumps, rows)), "facts.jsonl")
    oslo = Fact.from_prompt("so Oslo is in", "Oslo", "Norway")
    assert read_facts(lines).facts == (Fact("Rome", "{} is in", "Italy", "in"), oslo)


def test_a_file_without_answers_can_be_traced_and_says_so_where_answers_are_needed(tmp_path: Path) -> None:
    path = written(tmp_path, "subject,prompt\nRome,Rome is in\nOslo,Oslo is in\n", "asked.csv")
    facts = read_facts(path).facts
    assert [(fact.subject, fact.target_true) for fact in facts] == [("Rome", ""), ("Oslo", "")]
    with pytest.raises(
        ValueError, match=r"asked\.csv states no true answer, by which the facts that a model knows are"
    ):
        answered(facts, lambda fact: fact, path)
    recent = read_facts(DATA / "knowedit_recent.json").facts  # newer than the models: no old answer in the whole set
    with pytest.raises(ValueError, match=r"knowedit_recent\.json states no true answer"):
        answered(recent, lambda fact: fact, DATA / "knowedit_recent.json")
    mixed = [*facts, Fact("Bern", "{} is in", "Switzerland")]
    assert answered(mixed, lambda fact: fact, path) == ([mixed[-1]], 2)
    assert answered([], lambda fact: fact, path) == ([], 0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.jsonl",
            '{"subject": "Rome", "prompt": "Oslo is", "answer": "x"}',
            "a.jsonl holds no fact that can be used; 1",
        ),
        ("a.csv", "subject,prompt,answer\nRome,,x\n", "holds no fact that can be used; 1 row was set aside: row 1"),
        ("a.json", "[3]", "holds no row that can be read"),
        ("a.txt", "Rome", "a.txt is neither JSON nor a table"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_facts(written(tmp_path, text, name))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file 'absent\.csv'"):
        read_facts("absent.csv")


LOCALITY = {
    "counterfact-edit": {
        **NEEDLE,
        "ground_truth": "Seattle",
        "locality_prompt": KREMLIN,
        "locality_ground_truth": None,
    },
    "easyedit": {**NEEDLE, "ground_truth": "Seattle", "rephrase_prompt": "It stands in", "locality_prompt": KREMLIN},
    "plain": {**NEEDLE, "target_true": "Seattle", "locality": KREMLIN},
    "rome": {**NEEDLE, "target_new": {"str": "Paris"}, "locality_prompt": KREMLIN},
    "cknowedit": {**NEEDLE, "target_old": "Seattle", "locality_prompt": [KREMLIN]},
    "knowedit-counterfact": {
        **NEEDLE,
        "ground_truth": "Seattle",
        "portability": {"Reasoning": [{"prompt": "a", "ground_truth": "b"}]},
        "locality_prompt": KREMLIN,
    },
    "zsre": {"src": "Where is it?", "alt": "Paris", "subject": "it", "answers": ["Seattle"], "loc": KREMLIN},
    "wikibigedit": {"update": "Where is it?", "ans": "Paris", "subject": "it", "loc": KREMLIN},
    "qaedit": {"prompt": "Where?", "target": "Paris", "rephrase": "At which place?", "locality": [{"loc": KREMLIN}]},
}


@pytest.mark.parametrize("form", LOCALITY)
def test_a_locality_prompt_without_an_answer_is_kept(form: str, tmp_path: Path) -> None:
    path = written(tmp_path, [LOCALITY[form]])
    assert detect(path).name == form
    (case,) = read_cases(path)
    (probe,) = (probe for probe in case.all_probes if probe.prompt == KREMLIN)
    assert (probe.kind, probe.answer) == ("unchanged", "")
    assert KREMLIN not in json.dumps(case.extra)


def test_a_locality_prompt_with_the_true_answer_is_a_neighbour(tmp_path: Path) -> None:
    row = {**NEEDLE, "ground_truth": "Seattle", "locality_prompt": "The Fremont Troll is in"}
    for answer, kind in (("Seattle", "neighborhood"), ("Oslo", "unchanged")):
        (case,) = read_cases(written(tmp_path, [{**row, "locality_answer": answer}]))
        assert [(probe.kind, probe.answer) for probe in case.all_probes] == [(kind, answer)]
