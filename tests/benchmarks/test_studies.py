"""The benchmark of averages over facts, on a tiny model: what it counts, and how its numbers hang together."""

from __future__ import annotations

import pytest

from benchmarks.studies import measure
from tests.experiments.studies.made import known_facts
from tests.tiny import tiny_model


def test_every_state_of_five_maps_is_counted() -> None:
    model = tiny_model("gpt2")
    facts = known_facts(model, 2)
    found = measure(model, facts, samples=1, window=1, rounds=1, states=1)
    assert found["states"] == 5 * model.n_layers * sum(len(model.encode(fact.prompt)) for fact in facts)
    assert found["ratio"] == pytest.approx(found["loop_seconds"] / found["study_seconds"])
    assert found["ratio_range"] == [found["ratio"], found["ratio"]]
    assert found["study_states_per_second"] == pytest.approx(found["states"] / found["study_seconds"])
