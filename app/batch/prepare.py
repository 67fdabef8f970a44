"""A batch before it starts: its cells, how long they will take and how much memory they need.  Run by a worker."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from app.batch.datasets import facts_of, requests_of
from app.language.say import later
from app.server.catalog import choice_of
from app.session.asks import BatchAsk
from experiments.cells.trace import level_of
from experiments.kinds import Context, get_kind
from experiments.places import shown_name
from experiments.plan import Cell, Plan
from experiments.plan_files import loading
from experiments.workers.inline import in_one_thread
from facts.importers import answered
from facts.records import request_record
from facts.watch import UNWATCHED, Watch

if TYPE_CHECKING:
    from facts import Fact
    from models import LanguageModel

T = TypeVar("T")
MEASURED = 3
"""Cells that are run before the start to see how long one takes."""
BLOCK = 4
"""Facts traced in one cell."""
PROCESS_BYTES = 320 * 2**20
"""Memory of a process that has imported torch but holds no model (measured: 305 MB)."""
LOADING_SECONDS = 10.0
"""From the start of a process to its first cell, roughly."""
MAPS: dict[str, dict[str, Any]] = {
    later("State"): {"site": "resid_post"},
    later("MLP"): {"site": "mlp_out"},
    later("Attention"): {"site": "attn_out"},
    later("State, MLP severed"): {"site": "resid_post", "severed": "mlp_out"},
    later("State, attention severed"): {"site": "resid_post", "severed": "attn_out"},
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch that can be started."""

    ask: BatchAsk
    cells: tuple[Cell, ...]
    identity: dict[str, Any]
    about: dict[str, Any]
    n_facts: int
    n_unknown: int
    seconds: float
    """The whole, at the pace of the cells that were measured."""
    n_measured: int
    needed: int
    """Bytes, all workers together."""
    free: int

    @property
    def refusal(self) -> str:
        """Why the batch cannot run here; empty if it can."""
        if self.needed <= self.free:
            return ""
        need = "worker needs" if self.ask.workers == 1 else "workers need"
        return (
            f"{self.ask.workers} {need} about {size(self.needed)} of memory and {size(self.free)} are free; choose "
            "fewer workers, shorter prompts or a smaller model."
        )

    def plan(self, name: str) -> Plan:
        """The plan under a name, for a separate process.

        Raises:
            ValueError: if the name could not be that of a folder.
        """
        model = choice_of(self.ask.model)
        settings = model.settings
        device = "auto" if settings.device_map else str(self.identity["device"])
        how = {"device_map": settings.device_map, "load": settings.quantized, "chat": model.chat}
        about = self.about | loading(how)
        return Plan(name, model.source, self.cells, settings.dtype, device, about=about)


def prepare(model: LanguageModel, ask: BatchAsk, watch: Watch = UNWATCHED) -> Prepared:
    """Draw the facts, make the cells, and run a few of them.

    Raises:
        ValueError: if the model knows none of the facts, or nothing was chosen to run.
        facts.watch.Cancelled: if `watch` says to stop.
    """
    from experiments.identity import identity_of
    from experiments.memory import free_bytes

    steps = ask.facts + MEASURED
    make = _traces if ask.what == "trace" else _edits
    cells, about, n_unknown = make(model, ask, lambda done: watch.step(done, steps))
    chosen = choice_of(ask.model)
    called = f"{chosen.source} (chat)" if chosen.chat else chosen.source  # as its process will call it
    needed = ask.workers * (PROCESS_BYTES + _weights(model) + _most_bytes(model, cells))
    free = free_bytes(model.device)
    seconds: list[float] = []
    if needed <= free:
        for number, cell in enumerate(_spread(cells)):
            watch.step(ask.facts + number, steps, "timing a few cells")
            seconds.append(_timed(model, cell, watch))
    return Prepared(
        ask=ask,
        cells=cells,
        identity=identity_of(model) | {"model": called},
        about=about,
        n_facts=about["options"]["facts"],
        n_unknown=n_unknown,
        seconds=_whole(seconds, len(cells), ask.workers),
        n_measured=len(seconds),
        needed=needed,
        free=free,
    )


def size(count: float) -> str:
    """A number of bytes as text, in MB or GB."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"


Made = tuple[tuple[Cell, ...], dict[str, Any], int]


def _traces(model: LanguageModel, ask: BatchAsk, step: Callable[[int], None]) -> Made:
    """Cells of the study `average-effects`, so that its figure and table come with them."""
    from tracing import measure_noise

    if not ask.maps:
        raise ValueError("nothing is chosen to restore; choose at least one kind of state")
    told, _ = answered(facts_of(ask.source, ask.seed), lambda fact: fact, ask.source)
    facts, unknown = _known(model, told, lambda fact: fact, ask.facts, step)
    level = level_of(measure_noise(model, [fact.subject for fact in facts]))
    listed = [asdict(fact) for fact in facts]
    blocks = [listed[start : start + BLOCK] for start in range(0, len(listed), BLOCK)]
    cells = []
    for number, block in enumerate(blocks):
        # Each cell draws its own noise, as in the study: noise shared by all facts would shift their mean.
        shared = {"samples": ask.samples, "noise": ask.noise, "seed": ask.seed * len(blocks) + number}
        configs = [_config(MAPS[name], ask.window) | shared for name in ask.maps]
        cells.append(Cell("average", {"facts": block, "configs": configs, "level": level}))
    options = {"facts": len(facts), "samples": ask.samples, "noise": ask.noise, "seed": ask.seed, "window": ask.window}
    about = {"study": "average-effects", "options": options, "unknown": unknown, "rejected_rows": 0}
    return tuple(cells), about, len(unknown)


def _edits(model: LanguageModel, ask: BatchAsk, step: Callable[[int], None]) -> Made:
    from editing import METHODS

    if not ask.methods:
        raise ValueError("no method is chosen; choose at least one")
    drawn = requests_of(ask.source, ask.seed)
    if ask.only_known:
        told, _ = answered(drawn, lambda request: request.fact, ask.source)
        requests, unknown = _known(model, told, lambda request: request.fact, ask.facts, step)
    else:
        requests, unknown = _first(drawn, ask.facts), []
    cells = []
    for request in requests:  # one request's edits stand next to each other: they share the unedited model's answers
        shared = {"request": request_record(request), "protocols": list(ask.protocols), "seed": ask.seed}
        for name in ask.methods:
            has_layer = any(knob.name == "layer" for knob in fields(METHODS[name].config_type))
            places = ask.layers if has_layer and ask.layers else (None,)
            cells += [Cell("protocols", {**shared, "method": name, "layer": layer}) for layer in places]
    options = {"facts": len(requests), "seed": ask.seed, "methods": list(ask.methods), "protocols": list(ask.protocols)}
    about = {"options": options, "unknown": unknown, "rejected_rows": 0}
    # The study's figure cannot show several layers of one method.
    study = {"study": "methods-by-protocol"} if len(ask.layers) <= 1 else {}
    return tuple(cells), study | about, len(unknown)


def _config(values: dict[str, Any], window: int) -> dict[str, Any]:
    return values if values["site"] == "resid_post" else values | {"window": window}


def _known(
    model: LanguageModel, items: Iterable[T], fact_of: Callable[[T], Fact], count: int, step: Callable[[int], None]
) -> tuple[list[T], list[str]]:
    """The first `count` items whose true answer is the model's own, fewer where it knows fewer, and the prompts that
    were skipped.

    Raises:
        ValueError: if it knows none.
    """
    from tracing.engine.averaging import knows
    from tracing.engine.question import ask

    known: list[T] = []
    unknown: list[str] = []
    for item in items:
        step(len(known))
        fact = fact_of(item)
        if knows(model, ask(model, fact)):
            known.append(item)
        else:
            unknown.append(fact.prompt)
        if len(known) == count:
            return known, unknown
    if not known:
        raise ValueError(f"{shown_name(model.name)} knows none of the {len(unknown)} facts there are; choose others")
    return known, unknown


def _first(items: Iterable[T], count: int) -> list[T]:
    first = [item for item, _ in zip(items, range(count), strict=False)]
    if len(first) < count:
        raise ValueError(f"{count} facts were asked for and there are {len(first)}; ask for fewer")
    return first


def _spread(cells: tuple[Cell, ...]) -> list[Cell]:
    """A few cells spread over the plan."""
    few = min(MEASURED, len(cells))
    return [cells[(2 * number + 1) * len(cells) // (2 * few)] for number in range(few)]


def _timed(model: LanguageModel, cell: Cell, watch: Watch) -> float:
    """Seconds of one cell with one thread, as the workers have."""
    kind = _kind(cell)
    with in_one_thread():
        began = time.perf_counter()
        kind.run(model, kind.complete(cell.spec), Context(watch=Watch(cancelled=watch.cancelled)))
        return time.perf_counter() - began


def _whole(seconds: list[float], n_cells: int, workers: int) -> float:
    """The first cell of every worker also computes what later cells share, so the median is the typical one."""
    if not seconds:
        return math.nan
    typical = statistics.median(seconds)
    first = max(0.0, max(seconds) - typical)
    return LOADING_SECONDS + first + typical * math.ceil(n_cells / workers)


def _most_bytes(model: LanguageModel, cells: tuple[Cell, ...]) -> int:
    """The largest estimate among the cells with the longest settings, which have the longest prompts."""
    longest = sorted(cells, key=lambda cell: len(str(cell.spec)))[-MEASURED:]
    return max(_kind(cell).estimate_bytes(model, _kind(cell).complete(cell.spec)) for cell in longest)


def _kind(cell: Cell) -> Any:
    return get_kind(cell.kind)


def _weights(model: LanguageModel) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.module.parameters())
