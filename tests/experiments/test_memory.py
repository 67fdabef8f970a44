"""The memory guard: what is free, what is refused, and how a batch is made to fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import memory
from experiments.identity import identity_of
from experiments.kinds import Context, get_kind
from experiments.ledger.leases import Leased
from experiments.memory import MemoryRefusedError, batch_that_fits, cgroup_room, check_fits
from experiments.workers.messages import Setup, Task
from experiments.workers.worker import Worker
from facts.watch import UNWATCHED
from tests.tiny import tiny_model

FACT = {"subject": "Rome", "template": "{} is the capital of", "target_true": "Italy"}
MIB = 2**20
CPU = torch.device("cpu")


def group(folder: Path, limit: str, current: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/outer/inner\n")
    root = tmp_path / "fs"
    group(root / "outer", str(100 * MIB), 70 * MIB, cached=10 * MIB)
    group(root / "outer" / "inner", "max", 20 * MIB)
    assert cgroup_room(root, membership) == 40 * MIB
    group(root / "outer" / "inner", str(30 * MIB), 20 * MIB)
    assert cgroup_room(root, membership) == 10 * MIB
    membership.write_text("4:memory:/x\n")
    assert cgroup_room(root, membership) is None, "version 1"
    assert cgroup_room(root, tmp_path / "none") is None


def test_free_memory_is_what_the_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cgroup_room", lambda: 7)
    assert memory.free_bytes(CPU) == 7
    monkeypatch.setattr(memory, "cgroup_room", lambda: None)
    assert memory.free_bytes(CPU) > 100 * MIB


def test_a_batch_fits_and_is_halved_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    assert batch_that_fits(10, CPU, 1.0, 0, most=4096) == 50  # half of what is free
    assert batch_that_fits(10, CPU, 0.5, 0, most=4096) == 25
    assert [batch_that_fits(10, CPU, 1.0, attempt, most=40) for attempt in range(3)] == [40, 20, 10]
    assert batch_that_fits(10_000, CPU, 1.0, 2, most=40) == 1


def test_a_cell_that_cannot_fit_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kind = tiny_model("gpt2"), get_kind("trace")
    spec = dict(kind.complete({"fact": FACT, "samples": 1}))
    needed = kind.estimate_bytes(model, spec)
    assert memory.FIXED < needed < memory.FIXED + MIB
    row = needed - memory.FIXED
    assert kind.estimate_bytes(model, {**spec, "batch_size": 64}) == memory.FIXED + 64 * row
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    check_fits(model, kind, spec)
    with pytest.raises(MemoryRefusedError, match=r"needs about 8\.\d MiB and 4\.\d MiB are free for it on cpu"):
        check_fits(model, kind, spec, share=0.5)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    worker = Worker(Setup("", "float32", "cpu", identity_of(model), ()), model)
    found = worker.run(0, Task("k", "trace", spec, "g", 0, None))
    assert "the cell needs about" in found.reason  # type: ignore[union-attr]
    assert found.final, "trying again would find no more"  # type: ignore[union-attr]


def test_an_edit_needs_its_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kind = tiny_model("gpt2"), get_kind("edit")
    request = {"fact": FACT, "target_new": "France"}
    spec = kind.complete({"request": request, "method": "rome", "layer": 1})
    other = kind.complete({"request": request, "method": "ft", "layer": 1})
    assert kind.estimate_bytes(model, spec) == kind.estimate_bytes(model, other) + 6 * 8 * model.d_mlp**2
    probes = [{"kind": "paraphrase", "prompt": "Rome is in", "answer": "France"}] * 40
    longer = kind.complete({"request": {**request, "probes": probes}, "method": "ft", "layer": 1})
    assert kind.estimate_bytes(model, longer) > kind.estimate_bytes(model, other)


def test_a_smaller_batch_after_a_lack_of_memory_gives_the_same_trace_up_to_rounding() -> None:
    model, kind = tiny_model("gpt_neo"), get_kind("trace")
    spec = dict(kind.complete({"fact": FACT, "samples": 3}))
    found = {}
    for halvings in (0, 1, 9):
        context = Context()
        context.enter("g", halvings, UNWATCHED)
        restored = kind.run(model, spec, context)["restored"]
        found[context.notes.get("batch_rows")] = restored
    usual, (half, one) = found.pop(None), sorted(found, reverse=True)
    assert one == 1
    assert half > 100
    for restored in found.values():
        np.testing.assert_allclose(restored, usual, atol=1e-6)


def test_only_a_lack_of_memory_asks_for_smaller_batches() -> None:
    leased = Leased("k", "trace", 1, {}, "g", 2, "out of memory: 3 GiB are needed")
    assert leased.halvings == 2
    assert replace(leased, reason="its worker process died (SIGKILL)").halvings == 0
