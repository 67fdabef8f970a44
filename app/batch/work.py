"""The jobs of the page Batch: each turns a question into work for a worker thread, which alone imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.server import cache
from app.server.jobs import Work
from facts.watch import Watch

if TYPE_CHECKING:
    from app.batch.prepare import Prepared
    from app.batch.sweeps import Experiment
    from app.session.asks import BatchAsk


def dataset(source: str) -> Work:
    """What a file, or the atlas, holds; errors quote only files that the reader uploaded."""
    uploaded = cache.uploads().holds(source)

    def work(watch: Watch) -> object:
        from app.batch.datasets import read_dataset

        return read_dataset(source, quote=uploaded)

    return work


def methods() -> Work:
    """(name, title) of every method, and of every protocol; the first of these imports torch."""

    def work(watch: Watch) -> object:
        from editing import METHODS
        from metrics.protocols import PROTOCOLS

        return tuple({name: entry.title for name, entry in listed.items()} for listed in (METHODS, PROTOCOLS))

    return work


def prepare(ask: BatchAsk) -> Work:
    """The cells of a batch, with what they will take."""
    shelf = cache.shelf()

    def work(watch: Watch) -> object:
        from app.batch.prepare import prepare as made

        model = shelf.get(ask.model, watch)
        watch.step(0, 0, "drawing facts")
        return made(model, ask, watch)

    return work


def start_batch(prepared: Prepared, name: str) -> Work:
    """Write the plan down and start its process."""

    def work(watch: Watch) -> object:
        from app.batch import sweeps

        return sweeps.start(prepared.plan(name), prepared.identity, prepared.ask.workers)

    return work


def results(experiment: Experiment) -> Work:
    """Results of an experiment so far."""

    def work(watch: Watch) -> object:
        from app.batch.results import read_results

        return read_results(experiment)

    return work
