"""The tracing benchmark's cases for pretrained models, on a tiny one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.tracing.__main__ import ENGINE, SAMPLE, Line, measure, table
from benchmarks.tracing.agreement import agreements
from benchmarks.tracing.agreement import table as agreement_table
from benchmarks.tracing.cases import FACT, KINDS, MUST_REAL, Case, floor_flops, real_task, seconds_on_all_cores
from tests.tiny import tiny_model


def test_a_pretrained_models_map_is_measured_and_judged() -> None:
    task = real_task(tiny_model("llama"), "states")
    case = Case("some/folder, named", f"{len(task.ids)} tokens", "states")
    lines = measure(task, case, 1, half=False)
    assert [line.contender for line in lines][:3] == ["rome loop", ENGINE, SAMPLE]
    assert lines[1].max_abs_error is not None
    assert lines[1].max_abs_error <= 1e-5
    assert f"| {MUST_REAL:.3g} (" in table(lines).splitlines()[3]


def test_the_verdict_names_a_miss() -> None:
    line = Line("a model, 10 tokens, states", ENGINE, 5.9, 1.6, 0.0, 1.0, (1.0, 1.0))
    assert "6 (missed)" in table([line])
    assert "1.60 (missed)" in table([line])
    clock = Line(line.case, "engram, 2 threads, by the clock", None, None, None, 8.6, (8.5, 8.7))
    assert table([line, clock]).splitlines()[3].endswith("| 8.6 (8.5-8.7) |  |  |  |  |")


def test_the_floor_counts_matrices_and_head_by_hand() -> None:
    """Every position behind a restored one in every layer behind it, and the head once for each cell."""
    model = tiny_model("llama")
    task = real_task(model, "states")
    length, start, samples = len(task.ids), task.subject.start, len(task.noise)
    # hidden 32, 4 heads and 2 of keys and values of 8; gate, up and down of 48
    matrices = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48
    positions = sum(length - pos for pos in range(start, length))
    runs = samples * sum(model.n_layers - 1 - layer for layer in range(model.n_layers - 1))
    heads = samples * (model.n_layers - 1) * (length - start)
    assert floor_flops(task) == 2 * matrices * runs * positions + 2 * model.d_vocab * 32 * heads


def test_agreement_of_packed_and_replayed_maps_is_counted() -> None:
    model, fact = tiny_model("gemma3_text"), replace(FACT, target_true="")
    found = list(agreements(model, "tiny", [fact], list(KINDS)[:2], samples=2))
    assert [each.kind for each in found] == list(KINDS)[:2]
    assert all(each.over_allowed == 0 and each.largest_effect > 1e-3 for each in found)
    assert agreement_table(found).splitlines()[2].startswith("| tiny | states | 1 |")
    with pytest.raises(ValueError, match="always replayed"):
        list(agreements(tiny_model("bloom"), "bloom", [fact], ["states"], 1))


def test_a_time_by_the_clock_leaves_the_threads_as_they_were() -> None:
    import torch

    cores, times = seconds_on_all_cores(lambda: None, repeats=2)
    assert cores >= 1
    assert len(times) == 2
    assert torch.get_num_threads() == 1
