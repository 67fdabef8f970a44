"""Plans in TOML: a name, a model, and grids of settings.

    name = "windows"
    model = "reference"                    # device, dtype, device_map, load and chat as the options of those names

    [[grid]]
    kind = "trace"
    facts = { atlas = 50, seed = 0 }       # or { file = "counterfact.json", first = 50 }, as docs/datasets.md says
    site = ["mlp_out", "attn_out"]         # a list is an axis of the grid
    window = [1, 3]
    positions = [["last_subject"]]         # a setting that is itself a list: a list of one
    only_known = true

    [[grid]]
    kind = "edit"
    facts = { atlas = 20, seed = 0 }       # each with the false answer and the probes that the atlas derives
    method = ["r-rome", "ft-m"]
    layer = [0, 1, 2]

    [[grid]]
    kind = "protocols"
    facts = { file = "MQuAKE-CF.json", first = 20 }   # a cell for each case: all its edits, and its questions
    method = "memit"
    protocols = ["engram", "rome"]         # measured together, no axis; all if left out
    snippets = "attribute_snippets.json"   # ROME's reference texts, for RS and essence

Every other kind takes its settings as they are, without facts.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cells.trace import level_of
from experiments.kinds import get_kind
from experiments.plan import LOADING, Cell, Plan, grid
from facts import Case, Fact
from facts.atlas import AtlasFact, load_atlas
from facts.importers import list_cases, read_facts, record_of
from facts.probes import edit_request
from facts.records import request_record
from facts.regular import check_regular
from facts.words import counted

if TYPE_CHECKING:
    from models import LanguageModel

DEFAULTS: Mapping[str, Any] = {
    "model": "reference",
    "dtype": "auto",
    "device": "auto",
    "device_map": "",
    "load": "",
    "chat": False,
}
"""Defaults of a plan's head: how the model is loaded, as on the command line."""
SET_ASIDE = "set_aside"
"""Name in `Plan.about` of the notes on files with rows that could not be used."""
HEAD = ("name", *DEFAULTS, "grid")


def read_plan_file(path: Path | str) -> dict[str, Any]:
    """The file's tables, with the head's defaults filled in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no TOML, or has a field that plans do not have.
    """
    path = Path(path)
    check_regular(path, "give the path of a TOML file")
    if not path.exists():
        raise FileNotFoundError(f"there is no plan {str(path)!r}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the plan {str(path)!r} is not TOML: {error}") from None
    unknown = sorted(set(tables) - set(HEAD))
    if unknown:
        raise ValueError(f"the plan {str(path)!r} has no place for {unknown[0]!r}; it takes {', '.join(HEAD)}")
    grids = tables.get("grid")
    if not isinstance(grids, list) or not all(isinstance(table, dict) and "kind" in table for table in grids):
        raise ValueError(f"the plan {str(path)!r} needs a [[grid]] with a kind")
    if not isinstance(tables.get("chat", False), bool):
        raise ValueError(f"the plan {str(path)!r} says chat = {tables['chat']!r}; write true or false")
    return {"name": path.stem, **DEFAULTS, **tables}


def plan_of(tables: Mapping[str, Any], model: LanguageModel | None) -> Plan:
    """The plan that a file's tables describe.

    Args:
        model: the loaded model; needed by traces, whose noise is measured on it, and to know its layers.

    Raises:
        ValueError: if a grid's settings are wrong.
    """
    from editing.requests import check_layer

    cells: list[Cell] = []
    aside: list[str] = []
    for number, table in enumerate(tables["grid"], 1):
        try:
            found = _cells(table, model, aside)
            for layer in {cell.spec.get("layer") for cell in found}:
                if model is not None and isinstance(layer, int):
                    check_layer(model, layer)
            cells += found
        except ValueError as error:
            raise ValueError(f"grid {number}: {error}") from None
    head = {name: tables[name] for name in ("name", "model", "dtype", "device")}
    about = loading(tables) | ({SET_ASIDE: aside} if aside else {})
    return Plan(cells=tuple(cells), about=about, **head)


def loading(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of loading that `Plan.about` keeps; empty for the defaults."""
    told = {name: tables[name] for name in ("device_map", "load", "chat") if tables.get(name)}
    return {LOADING: told} if told else {}


def sample_facts(count: int, seed: int) -> list[AtlasFact]:
    """Facts of the atlas in a shuffled order, without those whose subject contains the answer.

    Raises:
        ValueError: if there are fewer.
    """
    rows = [row for row in load_atlas().facts if not row.contains_answer]
    if not 1 <= count <= len(rows):
        raise ValueError(f"{count} facts were asked for; expected 1 to {len(rows)}, which the atlas holds")
    random.Random(f"facts|{seed}").shuffle(rows)
    return rows[:count]


def _cells(table: Mapping[str, Any], model: LanguageModel | None, aside: list[str]) -> list[Cell]:
    axes = {name: value for name, value in table.items() if name not in ("kind", "facts")}
    name = table["kind"]
    get_kind(name)
    if name == "trace":
        facts = _facts(table.get("facts"), aside)
        if "level" not in axes and model is not None:
            from tracing.corruption import measure_noise

            axes["level"] = level_of(measure_noise(model, [fact.subject for fact in facts]))
        return list(grid(name, [{"fact": asdict(fact)} for fact in facts], axes))
    if name in ("edit", "rewrite"):
        return list(grid(name, [{"request": request} for request in _requests(table.get("facts"), aside)], axes))
    if name == "protocols":
        if isinstance(axes.get("protocols"), list):
            axes["protocols"] = [axes["protocols"]]  # measured together, so no axis
        return list(grid(name, _judged(table.get("facts"), aside), axes))
    if "facts" in table:
        raise ValueError(f"cells of kind {name!r} take no facts; leave them out")
    return list(grid(name, [{}], axes))


def _facts(source: Any, aside: list[str]) -> Sequence[Fact]:
    if _is_file(source):
        listed = read_facts(source["file"], _first(source))
        aside += listed.notes
        return listed.facts
    return [load_atlas().as_fact(row) for row in _sampled(source)]


def _requests(source: Any, aside: list[str]) -> list[dict[str, Any]]:
    if _is_file(source):
        cases = _cases(source, aside)
        for case in cases:
            if len(case.requests) > 1 or case.probes:
                raise ValueError(
                    f"case {case.id!r} has {counted(len(case.requests), 'edit')} and "
                    f"{counted(len(case.probes), 'question')} about what follows from all of them, which such a cell "
                    'does not ask; write kind = "protocols", which has a cell for each case'
                )
        return [request_record(case.requests[0]) for case in cases]
    rows = _sampled(source)
    atlas, seed = load_atlas(), int(source.get("seed", 0))
    return [request_record(edit_request(atlas, atlas.as_fact(row), atlas.counterfactual(row, seed))) for row in rows]


def _judged(source: Any, aside: list[str]) -> list[dict[str, Any]]:
    """What cells of the kind `protocols` are about: a request of the atlas, or a dataset's whole case."""
    if _is_file(source):
        return [{"case": record_of(case)} for case in _cases(source, aside)]
    return [{"request": request} for request in _requests(source, aside)]


def _cases(source: Mapping[str, Any], aside: list[str]) -> list[Case]:
    """The cases of a file that have something to edit."""
    listed = list_cases(source["file"], _first(source), keep_same_answers=_keeps_same(source))
    aside += listed.notes
    cases = [case for case in listed.cases if case.requests]
    if not cases:
        raise ValueError(f"{Path(source['file']).name} holds no edit; give a file whose rows have a new answer")
    return cases


def _is_file(source: Any) -> bool:
    return isinstance(source, dict) and "file" in source and set(source) <= {"file", "first", "keep_same_answers"}


def _first(source: Mapping[str, Any]) -> int | None:
    first = source.get("first")
    if first is not None and (not isinstance(first, int) or isinstance(first, bool) or first < 1):
        raise ValueError(f"first is {first!r}; expected a whole number of at least 1, or nothing for the whole file")
    return first


def _keeps_same(source: Mapping[str, Any]) -> bool:
    keeps = source.get("keep_same_answers", False)
    if not isinstance(keeps, bool):
        raise ValueError(f"keep_same_answers is {keeps!r}; expected true or false")
    return keeps


def _sampled(source: Any) -> list[AtlasFact]:
    if not (isinstance(source, dict) and "atlas" in source and set(source) <= {"atlas", "seed"}):
        raise ValueError(
            f'facts is {source!r}; expected {{ atlas = 50, seed = 0 }} or {{ file = "counterfact.json", first = 50 }}'
        )
    return sample_facts(int(source["atlas"]), int(source.get("seed", 0)))
