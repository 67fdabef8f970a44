"""Methods under several protocols: means over the facts all have, no mean over protocols, and a run on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cells.protocols import scores_of
from experiments.kinds import get_kind
from experiments.ledger.payload import encode
from experiments.ledger.records import Entry, entries
from experiments.studies import methods_by_protocol
from experiments.studies.methods_by_protocol import compared, headlines
from experiments.studies.parts.known import Drawn
from metrics.definitions import PROMPTED
from metrics.protocols import PROTOCOLS, CaseScores, Value, get_protocol
from tests.experiments.studies.made import known_facts, requests_of, run_study
from tests.tiny import tiny_model


def entry(method: str, fact: str, after: float | None) -> Entry:
    """A cell whose every number under the protocol `easyedit` is `after`."""
    names = get_protocol("easyedit").definitions
    values = {name: Value(None if after is None else 0.25, after, 2, (), "" if after else "why") for name in names}
    record = CaseScores("easyedit", fact, values, "made", "0", "1", 0, "usual").to_record()
    spec = {"method": method, "request": {"fact": fact}}
    payload = encode({"edit_digest": "", "scores": {"easyedit": record}})
    return Entry(0, "", "protocols", 1, spec, "done", 1, "", payload, {}, 0.0)


def unfinished(method: str, fact: str) -> Entry:
    return Entry(0, "", "protocols", 1, {"method": method, "request": {"fact": fact}}, "todo", 0, "", None, {}, 0.0)


def test_methods_are_judged_by_the_facts_all_have_edited() -> None:
    cells = [entry("rome", "a", 0.5), entry("rome", "b", 1.0), entry("rome", "c", 0.0)]
    cells += [entry("memit", "a", 0.0), entry("memit", "b", 0.5), unfinished("memit", "c")]
    table = compared(cells)
    name = get_protocol("easyedit").headlines["reliability"]
    rows = table[table["name"] == name].set_index("method")
    assert rows["value"].to_dict() == {"rome": 0.75, "memit": 0.25}
    assert rows["n"].tolist() == [2, 2]
    assert rows["before"].tolist() == [0.25, 0.25]
    heads = headlines(table)
    assert set(heads["metric"]) <= set(PROMPTED)
    assert heads[(heads["method"] == "rome") & (heads["metric"] == "reliability")]["value"].tolist() == [0.75]
    with pytest.raises(ValueError, match="no fact that every method has edited"):
        compared([entry("rome", "a", 0.5), unfinished("memit", "a")])


def test_a_cell_names_what_it_does_not_know() -> None:
    kind = get_kind("protocols")
    fact = {"subject": "Rome", "template": "{} is in", "target_true": "Italy", "relation": ""}
    spec: dict[str, Any] = {"request": {"fact": fact, "target_new": "France"}, "method": "ft"}
    assert kind.complete(spec)["protocols"] == list(PROTOCOLS)
    with pytest.raises(ValueError, match="unknown protocol 'romee'"):
        kind.complete(spec | {"protocols": ["romee"]})
    with pytest.raises(ValueError, match="there is no setting 'texts'"):
        kind.complete(spec | {"texts": 1})


def test_a_comparison_from_plan_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_neo")
    requests = requests_of(known_facts(model, 2))
    monkeypatch.setattr(methods_by_protocol, "draw_requests", lambda *_: Drawn(tuple(requests)))
    words = ("--facts", "2", "--methods", "ft", "ft-m", "--protocols", "easyedit", "wild")
    plan, ledger, record = run_study(model, "methods-by-protocol", tmp_path, *words)
    assert len(plan.cells) == 4
    found = [scores_of(one.result) for one in entries(ledger, "methods-by-protocol") if one.result is not None]
    table = pd.read_csv(tmp_path / "out" / "methods-by-protocol.csv")
    name = get_protocol("easyedit").headlines["reliability"]
    values = [scores["easyedit"].values[name].after for scores in found]
    rows = table[(table["name"] == name) & (table["protocol"] == "easyedit")].set_index("method")["value"]
    assert rows["ft"] == pytest.approx((values[0] + values[2]) / 2)  # type: ignore[operator]  # measured
    assert rows["ft-m"] == pytest.approx((values[1] + values[3]) / 2)  # type: ignore[operator]  # measured
    assert {row["protocol"] for row in record["found"]["headlines"]} == {"easyedit", "wild"}
