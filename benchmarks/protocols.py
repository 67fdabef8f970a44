"""`python -m benchmarks.protocols --edits 200`

The same edits under every protocol, in one table: why numbers of different protocols have no common mean.  Edits are
R-ROME's, one at a time on the unedited model, of held-out subjects (`benchmarks.parts.held_out`), each judged by two of
its paraphrases, at most five neighbours, and whatever else the atlas derives.  Every edit's numbers go to a file as
they are made, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import pandas as pd
import torch

from benchmarks.parts.held_out import held_out_requests
from benchmarks.parts.variants import weights_of
from benchmarks.reference import BEST_LAYER
from editing import METHODS, apply_edits
from editing.methods.rome import RRomeConfig
from facts import EditRequest
from facts.atlas import Atlas, load_atlas
from facts.probes import edit_request
from facts.spreadsheet import defused
from metrics import Summary
from metrics.definitions import METRICS, PROMPTED
from metrics.protocols import (
    PROTOCOLS,
    CaseScores,
    Material,
    References,
    Snippet,
    base_readings,
    evaluate_under,
    summarise,
)
from metrics.types import Settings
from models import LanguageModel
from models.options import add_model_options, load_from

METHOD = "r-rome"
PARAPHRASES = 2
"""Asked for each edit, as many as CounterFact has; drawn from those of the atlas."""
CHUNK = 25
"""Edits whose prompts the unedited model is asked at once."""


def requests_of(model: LanguageModel, atlas: Atlas, n: int, seed: int) -> list[EditRequest]:
    """`n` held-out requests with two paraphrases each, and the atlas's generation prompts.

    Raises:
        ValueError: if the model knows too few facts.
    """
    requests = []
    for request in held_out_requests(model, atlas, n, seed):
        paraphrases = request.of_kind("paraphrase")
        source = random.Random(f"{seed}|{request.fact.prompt}")
        kept = source.sample(paraphrases, min(PARAPHRASES, len(paraphrases)))
        probes = (*kept, *(probe for probe in request.probes if probe.kind != "paraphrase"))
        texts = edit_request(atlas, request.fact, request.target_new).generation_prompts
        requests.append(replace(request, probes=probes, generation_prompts=texts))
    return requests


def references_of(atlas: Atlas) -> References:
    """The atlas's own sentences as reference texts: for each answer, what it says about the things that have it."""
    snippets: dict[tuple[str, str], tuple[Snippet, ...]] = {}
    for fact in atlas.facts:
        told = (f"{atlas.as_fact(row).prompt} {row.object}." for row in atlas.about(fact.subject))
        key = fact.relation, fact.object
        snippets[key] = (*snippets.get(key, ()), Snippet(fact.subject, " ".join(told)))
    return References(snippets)


@dataclass(frozen=True)
class Journal:
    """A file of one line for what was run, and one for each edit's numbers."""

    path: Path
    about: dict[str, Any]

    def read(self, requests: Sequence[EditRequest]) -> list[dict[str, CaseScores]]:
        """The numbers there are, of the first requests; a last line that was cut off is not one of them.

        Raises:
            ValueError: if the file holds other edits, another model or other settings.
        """
        if not self.path.is_file():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.about) + "\n", encoding="utf-8")
            return []
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rindex("\n") + 1] if "\n" in text else ""
        head, *lines = [json.loads(line) for line in whole.splitlines()] or [None]
        prompts = [line["prompt"] for line in lines]
        if head != self.about or prompts[: len(requests)] != [r.fact.prompt for r in requests[: len(prompts)]]:
            raise ValueError(
                f"{str(self.path)!r} holds numbers of other edits, another model or other settings; remove it"
            )
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        return [
            {name: CaseScores.from_record(record) for name, record in line["scores"].items()}
            for line in lines[: len(requests)]
        ]

    def add(self, request: EditRequest, scores: dict[str, CaseScores]) -> None:
        """One more edit."""
        records = {name: case.to_record() for name, case in scores.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"prompt": request.fact.prompt, "scores": records}) + "\n")


def measured(
    model: LanguageModel, requests: Sequence[EditRequest], layer: int, material: Material
) -> Iterator[dict[str, CaseScores]]:
    """Each request's numbers under every protocol, after its own edit of the unedited model."""
    method, config = METHODS[METHOD], RRomeConfig(layer=layer)
    for start in range(0, len(requests), CHUNK):
        chunk = requests[start : start + CHUNK]
        before = base_readings(model, chunk, material=material)
        for request in chunk:
            edited = apply_edits(model, [method.compute(model, [request], config)])
            yield evaluate_under(model, edited, request, material=material, before=before)


def run(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    layer: int,
    material: Material,
    journal: Journal,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[str, Summary]:
    """The summary of each protocol; edits that are in the journal are not made again.

    Raises:
        ValueError: if the journal holds something else.
    """
    done = journal.read(requests)
    left = requests[len(done) :]
    for request, scores in zip(left, measured(model, left, layer, material), strict=True):
        journal.add(request, scores)
        done.append(scores)
        tick(len(done))
    return {name: summarise([scores[name] for scores in done]) for name in PROTOCOLS}


def frame(summaries: dict[str, Summary]) -> pd.DataFrame:
    """Every number of every protocol, a line each."""
    return pd.concat([summary.to_frame() for summary in summaries.values()], ignore_index=True)


def table(summaries: dict[str, Summary]) -> str:
    """The number nearest to each metric, protocol by protocol: after the edit, its interval, and before it."""
    lines = [
        f"| Protocol | {' | '.join(METRICS[metric].label for metric in PROMPTED)} |",
        f"|---|{'---:|' * len(PROMPTED)}",
    ]
    for name, summary in summaries.items():
        cells = [_cell(summary, PROTOCOLS[name].headlines.get(metric)) for metric in PROMPTED]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(summary: Summary, name: str | None) -> str:
    if name is None:
        return "–"
    score = summary[name]
    if score.value is None:
        return "not measured"
    low, high = score.ci or (score.value, score.value)
    before = "–" if score.before is None else f"{100 * score.before:.1f}"
    return f"{100 * score.value:.1f} ({100 * low:.1f}–{100 * high:.1f}), before {before}, n = {score.n}"


def details(summaries: dict[str, Summary]) -> str:
    """Every measured number: before, after, interval, edits and prompts, one table a protocol."""
    measured = (
        replace(summary, scores=tuple(score for score in summary.scores if score.value is not None))
        for summary in summaries.values()
    )
    return "\n".join(summary.to_markdown() for summary in measured)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; 0, or 2 with one sentence on stderr when they cannot be made."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    began = process_time()
    try:
        if options.edits < 1:
            raise ValueError(f"--edits is {options.edits}; expected at least 1")
        model, atlas = load_from(options), load_atlas()
        requests = requests_of(model, atlas, options.edits, options.seed)
        material = Material(Settings(distractors=(), seed=options.seed), references_of(atlas))
        about = {
            "model": weights_of(model),
            "method": METHOD,
            "layer": options.layer,
            "seed": options.seed,
            "protocols": list(PROTOCOLS),
        }
        journal = Journal(options.out / "edits.jsonl", about)
        summaries = run(model, requests, options.layer, material, journal, _ticker(len(requests)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    scores = frame(summaries)
    about_all = f"Shares in %, with a 95 % bootstrap interval over edits. {METHOD} at layer {options.layer}."
    text = "\n\n".join([table(summaries), about_all, details(summaries)])
    scores.map(defused).to_csv(options.out / "scores.csv", index=False)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(json.dumps({**about, "edits": options.edits, "scores": scores.to_dict("records")}) if options.json else text)
    print(f"{process_time() - began:.0f} processor seconds", file=sys.stderr)
    return 0


def _ticker(n: int) -> Callable[[int], None]:
    def tick(done: int) -> None:
        if done % 10 == 0 or done == n:
            print(f"{done} of {n} edits", file=sys.stderr, flush=True)

    return tick


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--edits", type=int, default=200, help="number of edits")
    parser.add_argument("--layer", type=int, default=BEST_LAYER, help="layer to edit")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of edits and of the drawn texts")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/protocols"), help="folder for the results")
    parser.add_argument("--threads", type=int, default=1, help="processor cores to use")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
