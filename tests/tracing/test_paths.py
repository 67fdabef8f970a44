"""Path patching: a plain oracle on every family, and the paths that cannot exist."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from facts import Fact
from facts.watch import Cancelled, Watch
from tests.oracle.paths import path_probability
from tests.tiny import FAMILIES, tiny_model
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel
from tracing.lenses.pair import make_pair
from tracing.lenses.paths import Node, PathResult, Through, path_patching

FACT = Fact.from_prompt("the city of Paris is the", "Paris")  # every family answers with one token
LEVEL = NoiseLevel(0.4, "a test")
CONFIG = TraceConfig(samples=2)


def as_tuple(node: Node) -> tuple[str, int, int]:
    return node.site, node.layer, node.pos


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_paths_agree_with_three_plain_forwards(family: str, direction: str) -> None:
    model = tiny_model(family)
    config = TraceConfig(samples=2, direction=direction)  # type: ignore[arg-type]
    pair = make_pair(model, FACT, config, LEVEL)
    ids, subject = list(pair.question.ids), pair.question.subject
    last = len(ids) - 1
    sender = Node("mlp_out", 0, subject.stop - 1)
    receivers = [Node("attn_out", 1, last), Node("attn_out", 3, last), Node("mlp_out", 2, subject.stop - 1)]
    for through in get_args(Through):
        result = path_patching(model, FACT, sender, receivers, config, level=LEVEL, through=through)
        how = {"noising": direction == "noising", "mlps": through == "mlps"}
        for sample, embeddings in enumerate(pair.corruption.embeddings):
            by_hand = partial(path_probability, model, ids, subject, embeddings, as_tuple(sender), **how)
            for index, receiver in enumerate(receivers):
                assert result.patched[index, sample] == pytest.approx(by_hand(as_tuple(receiver)), abs=1e-5)
            assert result.direct[sample] == pytest.approx(by_hand(None), abs=1e-5)
        assert np.abs(result.effect).max() > 1e-6
        gained = (result.patched - result.base).mean(1)
        np.testing.assert_allclose(result.effect, -gained if direction == "noising" else gained, atol=1e-6)


def test_what_a_path_cannot_carry() -> None:
    model = tiny_model("gpt2")
    pair = make_pair(model, FACT, CONFIG, LEVEL)
    start, last = pair.question.subject.start, pair.question.n_prompt - 1
    sender = Node("mlp_out", 1, start + 1)
    dead = [
        Node("attn_out", 1, last),  # computed before the sender
        Node("mlp_out", 0, start + 1),
        Node("mlp_out", 2, last),  # an MLP reads its own position alone
        Node("attn_out", 2, start),  # attention does not look ahead
    ]
    live = [Node("mlp_out", 2, start + 1), Node("attn_out", 2, last)]
    result = path_patching(model, FACT, sender, [*dead, *live], CONFIG, level=LEVEL)
    np.testing.assert_allclose(result.patched[:4], np.broadcast_to(result.base, (4, 2)), atol=1e-6)
    assert np.abs(result.effect[4:]).min() > 1e-6
    np.testing.assert_allclose(result.direct, result.base, atol=1e-6)  # its residual ends at another position


def test_the_last_state_goes_straight_to_the_logits() -> None:
    model = tiny_model("llama")
    last = len(model.encode(FACT.prompt)) - 1
    result = path_patching(model, FACT, Node("resid_post", 3, last), config=CONFIG, level=LEVEL)
    assert result.receivers == ()
    np.testing.assert_allclose(result.direct, result.clean, atol=1e-5)
    assert np.abs(result.base - result.clean).min() > 1e-4


def test_the_usual_receivers_are_those_behind_the_sender() -> None:
    model = tiny_model("gpt2")
    last = len(model.encode(FACT.prompt)) - 1
    seen: list[tuple[int, int]] = []
    sender = Node("attn_out", 2, last)
    result = path_patching(
        model, FACT, sender, config=CONFIG, level=LEVEL, watch=Watch(lambda *done: seen.append(done[:2]))
    )
    assert [str(node) for node in result.receivers] == [
        f"mlp_out 2 @ {last}",
        f"attn_out 3 @ {last}",
        f"mlp_out 3 @ {last}",
    ]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_path_is_a_table_and_a_file(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    result = path_patching(model, FACT, Node("mlp_out", 1, 5), config=replace(CONFIG, samples=3), level=LEVEL)
    frame = result.to_frame()
    assert list(frame["receiver"])[-1] == "logits"
    assert frame["effect"].iloc[-1] == pytest.approx(float(result.effects[-1].mean()), abs=1e-7)
    np.testing.assert_allclose(frame["effect"][:-1], result.effect, atol=1e-6)
    assert (frame["effect_low"] <= frame["effect"]).all()
    result.save(tmp_path / "paths.npz")
    again = PathResult.load(tmp_path / "paths.npz")
    assert again.to_json() == result.to_json()
    assert (again.sender, again.receivers, again.config) == (result.sender, result.receivers, result.config)


def test_what_a_path_refuses() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="there is no state 'mlp_out 9 @ 0'"):
        path_patching(model, FACT, Node("mlp_out", 9, 0), level=LEVEL)
    with pytest.raises(ValueError, match="'resid_post' cannot stand in 'resid_post 2 @ 3'"):
        path_patching(model, FACT, Node("mlp_out", 0, 0), [Node("resid_post", 2, 3)], level=LEVEL)
    with pytest.raises(ValueError, match="through is 'heads'"):
        path_patching(model, FACT, Node("mlp_out", 0, 0), level=LEVEL, through="heads")  # type: ignore[arg-type]
    with pytest.raises(Cancelled):
        path_patching(model, FACT, Node("mlp_out", 0, 0), level=LEVEL, watch=Watch(cancelled=lambda: True))
