"""The jobs of the page Batch, run by worker threads: each answers a question.  Only they import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.server import cache
from facts.watch import Watch

if TYPE_CHECKING:
    from app.batch.datasets import Dataset
    from app.batch.prepare import Prepared
    from app.batch.results import Results
    from app.batch.sweeps import Experiment
    from app.session.asks import BatchAsk


def dataset(source: str, watch: Watch) -> Dataset:
    """What a file, or the atlas, holds; errors quote only files that the reader uploaded."""
    from app.batch.datasets import read_dataset

    return read_dataset(source, quote=cache.uploads().holds(source))


def methods(watch: Watch) -> tuple[dict[str, str], ...]:
    """Name -> title of every method, and of every protocol; the first of these imports torch."""
    from editing import METHODS
    from metrics.protocols import PROTOCOLS

    return tuple({name: entry.title for name, entry in listed.items()} for listed in (METHODS, PROTOCOLS))


def prepare(ask: BatchAsk, watch: Watch) -> Prepared:
    """The cells of a batch, with the time and memory they need."""
    from app.batch.prepare import prepare as prepared

    model = cache.shelf().get(ask.model, watch)
    watch.step(0, 0, "drawing facts")
    return prepared(model, ask, watch)


def start_batch(prepared: Prepared, name: str, owner: str, watch: Watch) -> Experiment:
    """Write the plan and start its process."""
    from app.batch import sweeps

    return sweeps.start(prepared.plan(name), prepared.identity, prepared.ask.workers, owner)


def results(experiment: Experiment, watch: Watch) -> Results:
    """Results of an experiment so far."""
    from app.batch.results import read_results

    return read_results(experiment)
