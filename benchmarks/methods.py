"""`python -m benchmarks.methods --n 200`

Measures every editing method on the same edits of held-out subjects, one edit at a time on the unedited model, and
prints one table.  Each method's results are written to its own file as they are made, so that a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from time import process_time
from typing import Any

import torch

from benchmarks.parts.cases import KINDS, Case, make_cases
from benchmarks.parts.held_out import held_out_requests, with_same_relation
from benchmarks.parts.memory import reset_peak, since_reset
from benchmarks.parts.variants import NO_OP, variants, weights_of
from editing import METHODS, Edit, apply_edits, get_method
from editing.configs import make_config
from editing.train.artefact import EditorError
from experiments.guard import ordinary_texts
from facts.atlas import load_atlas
from metrics.sequence import text_perplexity
from metrics.statistics import bootstrap
from models import LanguageModel
from models.options import add_model_options, load_from

COLUMNS: dict[str, str] = {
    "reliability": "Reliability",
    "generalization": "Generalization",
    "locality_neighborhood": "Locality, neighbourhood",
    "locality_same_relation": "Locality, same relation",
    "locality_same_subject": "Locality, same subject",
    "locality": "Locality, all",
    "portability_alias": "Portability, alias",
    "portability_one_hop": "Portability, one hop",
    "portability_inverse": "Portability, inverse",
    "kl": "KL, nats",
    "seconds": "Processor seconds",
    "peak_bytes": "Peak, MiB",
    "parameters": "Entries changed",
    "relative_change": "Change over weight",
    "perplexity_ratio": "Perplexity, after over before",
}
"""Key of a figure -> head of its column."""
IN_JSON = (
    "reliability",
    "generalization",
    "locality_same_relation",
    "locality_same_subject",
    "portability",
    "kl",
    "seconds",
    "peak_bytes",
    "relative_change",
    "perplexity_ratio",
)


TEXTS = 8
"""Of the guard's texts, for the perplexity: enough for a ratio, and all of them would be a third of Gemma's time."""


@dataclass(frozen=True)
class Mean:
    """A figure over edits."""

    value: float | None
    """None if no edit measured it."""
    ci: tuple[float, float] | None
    """95 % bootstrap interval over edits."""
    n: int
    """Edits that measured it."""


def measured(model: LanguageModel, name: str, settings: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """One edit's figures, ready for JSON; `failed` holds the sentence of a method that refused it.

    Raises:
        FileNotFoundError, EditorError: if the method has no trained editor for this model.
    """
    request = case.request
    held = reset_peak()
    began = process_time()
    entries, change = 0, None
    edited = model
    if name != NO_OP:
        method = get_method(name)
        try:
            edit = method.compute(model, (request,), make_config(method.config_type, settings))
        except EditorError:  # the message says nothing about the method
            raise
        except ValueError as error:
            return {"prompt": request.fact.prompt, "failed": str(error)}
        entries, change = edit.parameters_changed, _relative_change(edit)
        edited = apply_edits(model, [edit])
    seconds, peak = process_time() - began, since_reset()
    taken = None if peak is None else max(0, peak - (held or 0))
    about = {"prompt": request.fact.prompt, "target": request.target_new}
    harm = {"relative_change": change, "perplexity_ratio": _perplexity_ratio(model, edited)}
    return about | case.figures(edited) | {"seconds": seconds, "peak_bytes": taken, "parameters": entries} | harm


def _relative_change(edit: Edit) -> float | None:
    """|delta| / |W| of the weight that changes most, if the method reports it."""
    return next((number.value for number in edit.diagnostics if number.name == "relative change"), None)


def _perplexity_ratio(model: LanguageModel, edited: LanguageModel) -> float | None:
    """Ratio of the perplexities of the first of the guard's texts with and without the edit."""
    room = min(model.max_positions, edited.max_positions)
    before, after = _perplexity(model, room), text_perplexity(edited, ordinary_texts(TEXTS), room)
    return None if before is None or after is None else after / before


@lru_cache(maxsize=4)
def _perplexity(model: LanguageModel, room: int) -> float | None:
    return text_perplexity(model, ordinary_texts(TEXTS), room)


def summarised(lines: Sequence[Mapping[str, Any]]) -> dict[str, Mean]:
    """Mean over edits of every figure, each edit weighing the same; a refused edit counts as one that did nothing new:
    reliability and generalization 0, the others not measured."""
    means = {}
    for key in (*COLUMNS, *(key for key in KINDS if key not in COLUMNS)):
        values = [
            0.0 if "failed" in line else line.get(key)
            for line in lines
            if ("failed" not in line or key in ("reliability", "generalization"))
            and ("failed" in line or line.get(key) is not None)
        ]
        means[key] = Mean(fmean(values) if values else None, bootstrap(values) if values else None, len(values))
    return means


def run(
    model: LanguageModel,
    name: str,
    settings: Mapping[str, Any],
    cases: Sequence[Case],
    path: Path,
    tick: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Every edit's figures; those already in the file are read, the others measured and added.

    The first edit is computed once more before, unmeasured: what a method reads once for a model, such as second
    moments, is no part of an edit's time.

    Raises:
        ValueError: if the file holds other edits, another model or other settings.
    """
    about = {"model": weights_of(model), "method": name, "settings": dict(settings)}
    lines: list[dict[str, Any]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        head, *rest = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if head != about:
            raise ValueError(f"{str(path)!r} holds figures of another model or other settings; remove it")
        lines = rest
    else:
        path.write_text(json.dumps(about) + "\n", encoding="utf-8")
    prompts = [case.request.fact.prompt for case in cases]
    if [line["prompt"] for line in lines[: len(prompts)]] != prompts[: len(lines)]:
        raise ValueError(f"{str(path)!r} holds figures of other edits; remove it")
    if len(lines) < len(cases):
        measured(model, name, settings, cases[0])
    for case in cases[len(lines) :]:
        lines.append(measured(model, name, settings, case))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        tick(len(lines))
    return lines[: len(cases)]


def as_json(means: Mapping[str, Mapping[str, Mean]], n: int) -> dict[str, dict[str, float | None]]:
    """{method: {n, figure, ...}}; `portability` pools its kinds."""
    return {method: {"n": n} | {key: figures[key].value for key in IN_JSON} for method, figures in means.items()}


def table(means: Mapping[str, Mapping[str, Mean]], n: int, about: str, split: str = "test") -> str:
    """The figures as Markdown: shares in %, with their intervals."""
    heads = ["Method", *COLUMNS.values()]
    rows = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for method, figures in means.items():
        rows.append(f"| {method} | " + " | ".join(_cell(key, figures[key]) for key in COLUMNS) + " |")
    note = (
        f"{about}; n = {n} edits of {split} subjects, one at a time. Shares are greedy top-1 in %, "
        "mean over edits with a 95 % bootstrap interval; locality over prompts the unedited model answers; portability "
        "over prompts whose bridge fact it knows; KL at neighbours and the subject's other facts. Seconds and peak: of "
        "computing and applying one edit; seconds of all cores together, peak above what the process held before. "
        "Change over weight: Frobenius norms, of the weight that changes most; perplexity: of the guard's texts."
    )
    return "\n".join([*rows, "", note])


def _cell(key: str, mean: Mean) -> str:
    if mean.value is None:
        return "–"
    if key == "seconds":
        return f"{mean.value:.2f}"
    if key == "peak_bytes":
        return f"{mean.value / 2**20:,.0f}"
    if key == "parameters":
        return f"{mean.value:,.0f}"
    if key in ("relative_change", "perplexity_ratio"):
        return f"{mean.value:.3f}"
    low, high = mean.ci or (mean.value, mean.value)
    if key == "kl":
        return f"{mean.value:.3f} ({low:.3f}–{high:.3f})"
    return f"{100 * mean.value:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 0, or 2 with one sentence on stderr when it cannot be made."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    means: dict[str, dict[str, Mean]] = {}
    try:
        model = load_from(options)
        chosen = variants(model, options.methods, options.set)
        atlas = load_atlas()
        print("choosing facts that the model knows", file=sys.stderr, flush=True)
        requests = held_out_requests(model, atlas, options.n, options.seed, split=options.split)
        cases = make_cases(model, with_same_relation(atlas, requests, options.seed))
        for label, (name, settings) in chosen.items():
            path = options.out / f"{label}.jsonl"
            try:
                lines = run(model, name, settings, cases, path, _ticker(label, options.n))
            except (FileNotFoundError, EditorError) as error:  # a learned editor that nobody trained for this model
                print(f"{label} is left out: {error}", file=sys.stderr)
                continue
            refused = sum("failed" in line for line in lines)
            if refused:
                print(f"{label}: {refused} edits refused, such as: {_first_refusal(lines)}", file=sys.stderr)
            means[label] = summarised(lines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = table(means, options.n, f"{model.name}, revision {model.revision[:12]}", options.split)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(json.dumps(as_json(means, options.n)) if options.json else text)
    return 0


def _first_refusal(lines: Sequence[Mapping[str, Any]]) -> str:
    return str(next(line["failed"] for line in lines if "failed" in line))


def _ticker(label: str, n: int) -> Callable[[int], None]:
    def tick(done: int) -> None:
        if done % 10 == 0 or done == n:
            print(f"{label}: {done} of {n}", file=sys.stderr, flush=True)

    return tick


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--methods", nargs="+", help=f"of {NO_OP}, {', '.join(METHODS)} and variants; all by default")
    parser.add_argument("--set", nargs="+", default=[], metavar="METHOD.SETTING=VALUE", help="such as rome.layer=1")
    parser.add_argument("--n", type=int, default=200, help="edits for each method")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of edits")
    parser.add_argument(
        "--split",
        choices=("test", "validation"),
        default="test",
        help="whose subjects; validation to choose settings by",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/methods"), help="folder for the results")
    parser.add_argument("--threads", type=int, default=2, help="processor cores to use")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
