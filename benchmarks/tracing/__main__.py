"""`python -m benchmarks.tracing [--quick] [--json]`: how much faster a whole map is than one forward for each cell.

    python -m benchmarks.tracing --models smollm2-135m gemma-3-270m   # the same for pretrained models

Protocol: one process and one thread; contenders take turns within a round; the time is this thread's processor time, so
that a busy machine slows all alike (on an accelerator: wall time).  The ROME loop is timed on random cells and scaled
to its T x L + 2 forwards; medians over rounds.  Before timing, the engine's map is compared with the loop at other
random cells.  The matrix rate is measured in the same rounds; from it comes the floor, the time that the
arithmetic alone would take, and rounds whose rate differs by more than 15 % from the median do not count.  With
`--clock` a pretrained model's map is also timed on all cores, in wall seconds, which need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from benchmarks.tracing.cases import (
    GPT2_SIZES,
    KINDS,
    MUST,
    MUST_FLOOR,
    MUST_HALF,
    MUST_RAGGED,
    MUST_REAL,
    MUST_SAMPLE,
    MUST_SMALL,
    SAMPLES,
    SUBJECTS,
    Case,
    floor_flops,
    in_half,
    matrix_rate,
    random_model,
    real_task,
    real_tasks,
    seconds,
    seconds_on_all_cores,
    task_of,
    whole_map,
)
from benchmarks.tracing.contenders import LensLoop, NnsightLoop, RomeLoop, Task, transformer_lens_is_here
from models import LanguageModel, load_model

CELLS = 12
EXACT = 1e-5
DRIFT = 0.15
"""Largest relative deviation of a round's matrix rate from the median; other rounds do not count."""
NNSIGHT_KINDS = ("states", "mlp window 10")
ENGINE, SAMPLE, HALF = "engram", "engram, first sample", "engram, bfloat16"
NNSIGHT, LENS = "nnsight per cell", "TransformerLens per cell"


@dataclass(frozen=True)
class Line:
    """One contender in one case."""

    case: str
    contender: str
    speedup: float | None
    """Speed relative to the ROME loop in the same rounds; None where times cannot be compared."""
    floor_distance: float | None
    """Time in units of the floor."""
    max_abs_error: float | None
    """Largest difference of a probability from the ROME loop's, over the cells compared."""
    seconds: float
    """For a whole map, median."""
    spread: tuple[float, float]
    """Least and greatest over rounds, in seconds."""


def measure(task: Task, case: Case, rounds: int, *, half: bool) -> list[Line]:
    """Every contender of one case.

    Raises:
        AssertionError: if the engine's map is not the loop's.
    """
    device, loop = task.model.device.type, RomeLoop(task)
    generator = torch.Generator().manual_seed(1)
    cells = [_cell(generator, task) for _ in range(CELLS)]
    expected = [loop.cell(*cell) for cell in cells]

    def error(found: Callable[[tuple[int, int]], float], few: int = CELLS) -> float:
        return max(abs(found(cell) - value) for cell, value in zip(cells[:few], expected[:few], strict=True))

    whole = whole_map(task)
    errors = {ENGINE: error(lambda cell: float(whole[cell]))}
    assert errors[ENGINE] <= EXACT, f"{case.name}: the map differs from the ROME loop by {errors[ENGINE]:.1e}"
    contenders: dict[str, Callable[[], object]] = {ENGINE: lambda: whole_map(task)}
    if case.kind == "states":
        contenders[SAMPLE] = lambda: whole_map(task, samples=1)
    if half:
        small = in_half(task)
        halved = whole_map(small)
        errors[HALF] = error(lambda cell: float(halved[cell]))
        contenders[HALF] = lambda: whole_map(small)
    baseline: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in contenders}
    others: dict[str, NnsightLoop | LensLoop] = {NNSIGHT: NnsightLoop(task)} if case.kind in NNSIGHT_KINDS else {}
    if case.kind == "states" and transformer_lens_is_here() and case.size in GPT2_SIZES:
        others[LENS] = LensLoop(task)
    for name, other in others.items():
        errors[name] = error(lambda cell, other=other: other.cell(*cell), CELLS // 3)  # type: ignore[misc]
        times[name] = []
    rates = []
    for _ in range(rounds):
        rates.append(matrix_rate(device))
        drawn = [_cell(generator, task) for _ in range(CELLS)]
        baseline.append(_per_map(_timed(loop, drawn, device), task))
        for name, work in contenders.items():
            times[name].append(seconds(work, device))
        few = drawn[: CELLS // 3]
        for name, other in others.items():
            times[name].append(_per_map(_timed(other, few, device) * CELLS / len(few), task))
    return _lines(case, task, baseline, times, rates, errors)


def on_all_cores(task: Task, case: Case) -> list[Line]:
    """Wall seconds of a whole map and of its first sample, with one thread for each core."""
    lines = []
    for name, samples in ((ENGINE, SAMPLES), (SAMPLE, 1)):
        threads, times = seconds_on_all_cores(lambda samples=samples: whole_map(task, samples))  # type: ignore[misc]
        contender = f"{name}, {threads} threads, by the clock"
        lines.append(Line(case.name, contender, None, None, None, statistics.median(times), (min(times), max(times))))
    return lines


def measure_ragged(model: LanguageModel, count: int, rounds: int) -> list[Line]:
    """States of real prompts, one map each, against the loop on every prompt.

    Raises:
        AssertionError: if a map is not the loop's.
    """
    tasks, generator = real_tasks(model, count), torch.Generator().manual_seed(1)
    device, error = model.device.type, 0.0
    baseline, spent, halved = [], [], []
    small = [in_half(task) for task in tasks]
    wrong = 0.0
    for _ in range(rounds):
        loops, maps = 0.0, []
        for task in tasks:
            loop = RomeLoop(task)
            drawn = [_cell(generator, task) for _ in range(2)]
            loops += _timed(loop, drawn, device) / len(drawn) * (len(task.ids) * model.n_layers + 2)
            maps.append((loop, drawn))
        baseline.append(loops)
        spent.append(seconds(lambda: [whole_map(task) for task in tasks], device))
        halved.append(seconds(lambda: [whole_map(task) for task in small], device))
        for (loop, drawn), task, half in zip(maps, tasks, small, strict=True):
            error = max(error, _error(whole_map(task), loop, drawn))
            wrong = max(wrong, _error(whole_map(half), loop, drawn))
    assert error <= EXACT, f"a map differs from the ROME loop by {error:.1e}"
    lengths = [len(task.ids) for task in tasks]
    case = f"{model.name}, {count} prompts of {min(lengths)}-{max(lengths)} tokens, states"
    rome = statistics.median(baseline)
    contenders = (("rome loop", baseline, None), (ENGINE, spent, error), (HALF, halved, wrong))
    return [
        Line(case, name, rome / statistics.median(each), None, off, statistics.median(each), (min(each), max(each)))
        for name, each, off in contenders
    ]


def _lines(
    case: Case,
    task: Task,
    baseline: list[float],
    times: dict[str, list[float]],
    rates: list[float],
    errors: dict[str, float],
) -> list[Line]:
    middle = statistics.median(rates)
    steady = [index for index, rate in enumerate(rates) if abs(rate / middle - 1) <= DRIFT]
    rome = statistics.median(baseline[index] for index in steady)
    floor = floor_flops(task) / middle
    lines = []
    for name, spent in {"rome loop": baseline, **times}.items():
        kept = [spent[index] for index in steady]
        median = statistics.median(kept)
        exact_floor = name not in (SAMPLE, HALF)
        lines.append(
            Line(
                case=case.name,
                contender=name,
                speedup=rome / median,
                floor_distance=median / floor if exact_floor else None,
                max_abs_error=errors.get(name),
                seconds=median,
                spread=(min(kept), max(kept)),
            )
        )
    return lines


def _timed(contender: RomeLoop | NnsightLoop | LensLoop, cells: list[tuple[int, int]], device: str) -> float:
    """Seconds for some cells."""
    return seconds(lambda: [contender.cell(*cell) for cell in cells], device)


def _cell(generator: torch.Generator, task: Task) -> tuple[int, int]:
    sizes = (len(task.ids), task.model.n_layers)
    pos, layer = (int(torch.randint(0, size, (1,), generator=generator)) for size in sizes)
    return pos, layer


def _per_map(spent: float, task: Task) -> float:
    """Factor from the time of `CELLS` cells to that of a map: every cell, the clean and the corrupted run."""
    return spent / CELLS * (len(task.ids) * task.model.n_layers + 2)


def _error(found: torch.Tensor, loop: RomeLoop, cells: list[tuple[int, int]]) -> float:
    return max(abs(float(found[cell]) - loop.cell(*cell)) for cell in cells)


def table(lines: list[Line]) -> str:
    """The lines in Markdown, with the engine's targets."""
    rows = [
        f"| case | contender | a map, s | x ROME loop | must | x floor (must be {MUST_FLOOR}) | largest error |",
        "|---|---|---|---|---|---|---|",
    ]
    whole = {line.case: line.speedup or 0.0 for line in lines if line.contender == ENGINE}
    for line in lines:
        must = _must(line, whole[line.case])
        speedup = "" if line.speedup is None else f"{line.speedup:.2f}"
        verdict = "" if must is None else f"{must:.3g} ({'met' if (line.speedup or 0) >= must else 'missed'})"
        floor = "" if line.floor_distance is None else f"{line.floor_distance:.2f}"
        if line.contender == ENGINE and line.floor_distance is not None:
            floor += f" ({'met' if line.floor_distance <= MUST_FLOOR else 'missed'})"
        error = "" if line.max_abs_error is None else f"{line.max_abs_error:.0e}"
        spread = f"{line.seconds:.3g} ({line.spread[0]:.3g}-{line.spread[1]:.3g})"
        rows.append(f"| {line.case} | {line.contender} | {spread} | {speedup} | {verdict} | {floor} | {error} |")
    return "\n".join(rows)


def _must(line: Line, whole: float) -> float | None:
    """Times the ROME loop that a line has to reach, if it has to; `whole` is what the engine's whole map reached."""
    size, subject, kind = line.case.rsplit(", ", 2)
    if "prompts" in subject:
        return MUST_RAGGED if line.contender == ENGINE else None
    if line.contender == ENGINE:
        if subject not in SUBJECTS:
            return MUST_REAL if kind == "states" else None
        return (MUST_SMALL if size == "8x256" else MUST).get((subject, kind))
    if line.contender == HALF:
        return MUST_HALF[subject]
    return whole / MUST_SAMPLE if line.contender == SAMPLE else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the 8 x 256 cases only, about a minute")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", help="random models; by default 8x256 and gpt2-small")
    parser.add_argument("--models", nargs="+", default=[], help="pretrained models: a name, a folder or a .gguf file")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), help="by default all, states for --models")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), choices=list(SUBJECTS))
    parser.add_argument("--prompts", type=int, default=0, help="also trace so many real prompts on the bundled model")
    parser.add_argument("--clock", action="store_true", help="also time --models on all cores, of an idle machine")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    if options.sizes is None:
        options.sizes = [] if options.models else ["8x256", "gpt2-small"]
    if options.quick:
        options.sizes = ["8x256"]
    if options.kinds is None:
        options.kinds = ["states"] if options.models else list(KINDS)
    return options


def main() -> int:
    """Measure and print."""
    options = _options()
    torch.set_num_threads(1)
    lines: list[Line] = []
    for size in options.sizes:
        model = random_model(size, options.device)
        for kind in options.kinds:
            for subject in options.subjects:
                case = Case(size, subject, kind)
                half = kind == "states" and not options.quick
                lines += measure(task_of(model, case), case, options.rounds, half=half)
                print(f"{case.name} done", file=sys.stderr, flush=True)
    for name in options.models:
        model = load_model(name, dtype="float32", device=options.device)
        for kind in options.kinds:
            task = real_task(model, kind)
            case = Case(name, f"{len(task.ids)} tokens, subject {task.subject.start}-{task.subject.stop - 1}", kind)
            lines += measure(task, case, options.rounds, half=False)
            if options.clock:
                lines += on_all_cores(task, case)
            print(f"{case.name} done", file=sys.stderr, flush=True)
    if options.prompts:
        lines += measure_ragged(load_model("reference"), options.prompts, options.rounds)
    if options.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
        return 0
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, {SAMPLES} samples")
    print(f"matrix rate {matrix_rate(options.device) / 1e9:.0f} GFLOP/s")
    if not transformer_lens_is_here():
        print("TransformerLens is not installed, so it is no contender here.")
    print(table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
