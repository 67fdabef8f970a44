"""RippleEdits (Cohen et al. 2023, arXiv:2307.12976): popular, random and recent edits with tests on six axes.

The file states each edit as a sentence, "The name of the mother of X is Y.", without naming X or Y.  The sentence is
taken apart here: Y is what a test of the same relation answers, or what follows the last verb that the sentence shares
with the previous fact; X is what one of the benchmark's forms leaves open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from facts.importers.build import AXES, names_of, probe_of, request_of
from facts.importers.fields import Fields
from facts.types import Case, Fact, Probe

AXIS_NAMES = (
    "Relation_Specificity",
    "Relation_Specifity",
    "Logical_Generalization",
    "Subject_Aliasing",
    "Compositionality_I",
    "Compositionality_II",
    "Forgetfulness",
)
_VERB = re.compile(r"\b(?:is followed by|is|are|follows)(?= )")
_SUBJECT_FORMS = tuple(
    re.compile(form)
    for form in (
        r"which (.+) (?:is associated with|is a member of|plays in|is part of|is the capital of) is$",
        r"(?:the award|number of children) (.+) (?:won|has) is$",
        r"(?:held by|the currency in|performed in) (.+) is$",
        r"^(.+) (?:follows|is followed by)$",
        # Relations whose own name has an "of", so that the subject begins after the second one.
        r"(?:country of citizenship|(?:place|date) of \w+|field of work|head of \w+) of (.+) (?:is|are)$",
        r"^The names? of the .+? of (.+) (?:is|are)$",
        r"^The .+? of (.+) (?:is|are)$",
    )
)


def recognises(row: Mapping[str, Any]) -> bool:
    """The edit is an object beside the axes."""
    return isinstance(row.get("edit"), dict) and ("example_type" in row or any(axis in row for axis in AXIS_NAMES))


def read(row: Fields) -> Case:
    """One row as a case."""
    edit = row.part("edit")
    sentence = edit.see("prompt").strip().removesuffix(".")
    previous = edit.part("previous_fact") if "previous_fact" in edit else None
    previous = edit.part("original_fact") if "original_fact" in edit else previous
    old = previous.see("prompt").strip().removesuffix(".") if previous else ""
    prompt, new = _cut(sentence, old, tuple(_answers_of(row, str(edit.peek("relation")))))
    if not new:
        raise edit.error("prompt", f"is {sentence!r}, whose new answer cannot be told from its question")
    true = old[len(prompt) :].strip() if old.startswith(prompt) else ""
    subject = next((found[1] for form in _SUBJECT_FORMS if (found := form.search(prompt))), "")
    relation = edit.optional("relation")
    notes: tuple[str, ...] = ()
    if subject:
        fact = Fact(subject, _template(prompt, subject), true, relation)
    else:
        fact = Fact.from_words(prompt, true, relation)
        notes = ("the sentence has none of the benchmark's forms; the whole prompt stands for the subject",)
    tests = _Tests()
    for axis in AXIS_NAMES:
        for index, test in enumerate(row.parts(axis)):
            tests.add(test, axis, f"{axis}[{index}]")
    request = request_of(edit, "prompt", fact, new, tests.probes)
    return Case("", (request,), names=tuple(dict.fromkeys(tests.names)), notes=(*notes, *tests.notes))


def _template(prompt: str, subject: str) -> str:
    before, _, after = prompt.rpartition(subject)
    return f"{before}{{}}{after}"


def _cut(sentence: str, old: str, answers: tuple[str, ...]) -> tuple[str, str]:
    """(prompt, new answer) of the sentence that states an edit; an empty answer where they cannot be told apart."""
    for answer in sorted(answers, key=len, reverse=True):
        prompt = sentence.removesuffix(f" {answer}")
        if prompt != sentence and _VERB.search(f"{prompt} ", len(prompt) - len("is followed by")):
            return prompt, answer
    shared = next((i for i, (a, b) in enumerate(zip(sentence, old, strict=False)) if a != b), len(sentence))
    end = max((verb.end() for verb in _VERB.finditer(sentence) if verb.end() <= shared), default=0)
    return sentence[:end], sentence[end:].strip() if end else ""


def _answers_of(row: Fields, relation: str) -> Iterator[str]:
    """What the edited relation gives for other names of the subject: the new object, as the file calls it."""
    for test in row.copied("Subject_Aliasing"):
        for query in test.parts("test_queries"):
            if query.peek("relation") == relation:
                yield from (value for answer in query.parts("answers") for value in answer.answers("value"))


class _Tests:
    """The probes of one edit, the other names of their bridge facts, and what could not be asked."""

    def __init__(self) -> None:
        self.probes: list[Probe] = []
        self.names: list[tuple[str, tuple[str, ...]]] = []
        self.notes: list[str] = []

    def add(self, test: Fields, axis: str, where: str) -> None:
        """One test: queries of which one or all must be right, if the unedited model knows the conditions."""
        bridge = []
        for query in test.parts("condition_queries"):
            known = _query_answers(query)
            if known and "prompt" in query:
                bridge.append((query.text("prompt"), known[0]))
                self.names += names_of(known)
        rule = test.peek("test_condition") or "OR"
        if rule not in ("OR", "AND"):
            raise test.error("test_condition", f"is {rule!r}; expected OR or AND")
        queries = test.parts("test_queries")
        group = where if len(queries) > 1 else ""
        group_rule: Literal["any", "all"] = "all" if group and rule == "AND" else "any"
        for query in queries:
            answers = _query_answers(query)
            if not answers or "prompt" not in query:
                self.notes.append(f"{query.path('prompt')} has no words or no answer; it is kept but not asked")
                continue
            probe = probe_of(AXES[axis], query.text("prompt"), answers, axis)
            self.probes.append(replace(probe, bridge=tuple(bridge), group=group, group_rule=group_rule))


def _query_answers(query: Fields) -> tuple[str, ...]:
    """Every name of every right answer; where there are several answers, their grouping stays in the row."""
    answers = query.copied("answers")
    if len(answers) < 2:
        answers = query.parts("answers")
    found = [name for answer in answers for name in (*answer.answers("value"), *answer.answers("aliases"))]
    return tuple(dict.fromkeys(found))
