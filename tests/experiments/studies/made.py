"""Small runs of studies on tiny random models: facts they know, and the way from a plan to its files."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from experiments.identity import identity_of
from experiments.ledger.ledger import Ledger
from experiments.plan import Plan
from experiments.runner import execute
from experiments.studies import Study, get_study
from experiments.workers.inline import Inline
from facts import EditRequest, Fact, Probe
from models import LanguageModel

PROMPTS = (("the Space Needle is in", "Space Needle"), ("so Rome is the city of", "Rome"), ("Oslo is a city", "Oslo"))
EXTRAS = ("", " old", " big", " new", " tall", " 7", " Denmark", " downtown", " and Rome")


def known_facts(model: LanguageModel, count: int) -> list[Fact]:
    """Facts whose answer is what the random model says anyway, where that is a word."""
    facts = []
    for prompt, subject in PROMPTS:
        for extra in EXTRAS:
            token = int(model.logits(torch.tensor([model.encode(prompt + extra)]))[0, -1].argmax())
            word = model.token_strings([token])[0]
            if word.startswith(" ") and word.strip() and word.isprintable():
                facts.append(Fact.from_prompt(prompt + extra, subject, word.strip()))
    assert len(facts) >= count, "the tiny model should say a word after some of the prompts"
    return facts[:count]


def requests_of(facts: list[Fact]) -> list[EditRequest]:
    """Each fact rewritten, with a paraphrase and a neighbour."""
    found = []
    for number, fact in enumerate(facts):
        new = "Paris" if number % 2 else "London"
        probes = (
            Probe("paraphrase", f"So {fact.prompt}", new),
            Probe("neighborhood", "the Eiffel Tower is in", fact.target_true),
        )
        found.append(EditRequest(fact, new, probes))
    return found


def options_of(study: str, *words: str) -> Namespace:
    """A study's options as the command line would read them."""
    parser = ArgumentParser()
    get_study(study).add_options(parser)
    return Namespace(**vars(parser.parse_args(words)), name="", model="tiny")


def run_study(model: LanguageModel, study: str, folder: Path, *words: str) -> tuple[Plan, Ledger, dict[str, Any]]:
    """(plan, ledger, record.json) of a study that was planned, run here and summarised; its files stand in `folder`."""
    found: Study = get_study(study)
    plan = found.plan(options_of(study, *words), model)
    plan = Plan(plan.name, plan.model, plan.cells, about={"study": study, **plan.about})
    ledger = Ledger(folder)
    run = ledger.add(plan, identity_of(model))
    end = execute(ledger, run, Inline(model))
    assert (end.done, end.failed) == (len(plan.cells), 0), failures(ledger)
    written = found.summarise(ledger, run, folder / "out")
    expected = {f"{study}.png", f"{study}.pdf", f"{study}.csv", f"{study}.md", "record.json"}
    assert expected <= {path.name for path in written}
    for path in written:
        assert path.stat().st_size > 0
    record = json.loads((folder / "out" / "record.json").read_text(encoding="utf-8"))
    assert record["about"]["study"] == study
    assert record["identity"]["weights_sha256"] == model.revision
    return plan, ledger, record


def failures(ledger: Ledger) -> list[str]:
    """Why cells failed."""
    return [row[0] for row in ledger.read("SELECT reason FROM cells WHERE status = 'failed'")]


def write_facts(path: Path, facts: list[Fact]) -> Path:
    """A file of facts in the form of known_1000."""
    records = [{"subject": one.subject, "prompt": one.prompt, "attribute": one.target_true} for one in facts]
    path.write_text(json.dumps(records), encoding="utf-8")
    return path
