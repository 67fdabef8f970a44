"""`python -m benchmarks.evaluation --model smollm2-135m`: seconds of one edit and of its five metrics.

The metrics are measured twice: when the unedited model has not been asked anything yet, and when it is known what it
says, as for every further edit of the same fact.  Wall seconds on all cores; run it with nothing else running.
"""

from __future__ import annotations

import argparse
from time import perf_counter

from app import workflow
from editing.parts.suggest import suggest_layer
from models.options import add_model_options, load_from

PROMPT, SUBJECT, TARGET_NEW = "The Space Needle is located in the city of", "Space Needle", "Rome"


def main(argv: list[str] | None = None) -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=(__doc__ or "").split("\n")[0])
    add_model_options(parser)
    model = load_from(parser.parse_args(argv))
    request = workflow.request_for(model, PROMPT, SUBJECT, "", TARGET_NEW)
    settings = {"layer": suggest_layer(model), "second_moment": "identity"}
    began = perf_counter()
    edit = workflow.edit(model, request, "r-rome", settings)
    seconds = [perf_counter() - began]
    for _ in range(2):
        began = perf_counter()
        report = workflow.evaluate(model, edit, request)
        seconds.append(perf_counter() - began)
    print(
        f"{model.name}: edit {seconds[0]:.2f} s, five metrics {seconds[1]:.2f} s, again {seconds[2]:.2f} s "
        f"({len(report.rows)} prompts)"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
