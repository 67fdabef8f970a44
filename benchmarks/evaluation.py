"""`python -m benchmarks.evaluation --model smollm2-135m`: seconds of one edit and of its five metrics.

Two edits of one fact are measured: the first when the unedited model has not been asked anything yet, the second when
it is known what it says.  `--moments` measures the second moments of all layers instead, and those of the first
quarter, which most edits wait for.  Wall seconds on all cores; run it with nothing else running.

Floors are matrix products alone, at the rate of a product of the model's own size measured before and after: of the
metrics 2 x all parameters for each distinct token of the neutral texts, the prompts and the continuations, in each
model that is asked; of the second moments 2 x the blocks' parameters and 2 x d_mlp^2 a layer for each token.
"""

from __future__ import annotations

import argparse
import math
from time import perf_counter

import torch

from app import workflow
from benchmarks.parts.variants import variants
from editing import METHODS
from editing.parts.moments import DEPTHS, estimate
from experiments.guard import ordinary_texts
from metrics import EditReport
from models import LanguageModel
from models.forwards.tree import Tree
from models.options import add_model_options, load_from
from models.reference.corpus import sample_texts

PROMPT, SUBJECT, TARGETS = "The Space Needle is located in the city of", "Space Needle", ("Rome", "Athens")


def matrix_rate(model: LanguageModel) -> float:
    """Floating-point operations a second of a product of 2,048 tokens with an MLP's weight."""
    states, weight = torch.randn(2048, model.d_mlp), torch.randn(model.d_model, model.d_mlp)
    seconds = []
    for _ in range(5):
        began = perf_counter()
        states @ weight.T
        seconds.append(perf_counter() - began)
    return 2 * 2048 * weight.numel() / min(seconds)


def block_parameters(model: LanguageModel) -> int:
    """Parameters of all blocks."""
    return sum(parameter.numel() for parameter in model.submodules[model.architecture.layers].parameters())


def time_moments(model: LanguageModel, tokens: int, layers: range) -> str:
    """The line of the second moments of the first so many layers."""
    texts = sample_texts(tokens // 8 + 1)
    rates = [matrix_rate(model)]
    began = perf_counter()
    estimate(model, layers, texts, tokens)
    seconds = perf_counter() - began
    rates.append(matrix_rate(model))
    per_layer = block_parameters(model) / model.n_layers + model.d_mlp**2
    work = 2 * tokens * len(layers) * per_layer
    floor = work / (sum(rates) / 2)
    return (
        f"{model.name}: second moments of {len(layers)} layers from {tokens:,} tokens {seconds:.1f} s, "
        f"{seconds / floor:.2f} x the floor of {floor:.1f} s ({sum(rates) / 2e9:.0f} GFLOP/s)"
    )


def metrics_work(model: LanguageModel, report: EditReport) -> float:
    """Floating-point operations of asking one model once."""
    tree = Tree()
    for text in ordinary_texts(workflow.REPORT_TEXTS):
        tree.add(model.tokenize(text))
    for row in report.rows:
        tree.add(model.encode(row.prompt))
    said = [row.after.continuation for row in report.rows if row.after] + [text.after for text in report.texts]
    generated = sum(len(model.tokenize(text)) for text in said)
    parameters = block_parameters(model) + model.weight(f"{model.architecture.head}.weight").numel()
    return 2.0 * parameters * (len(tree) + generated)


def main(argv: list[str] | None = None) -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--moments", type=int, metavar="TOKENS", help="measure the second moments instead")
    parser.add_argument("--method", default="r-rome", choices=sorted(METHODS), help="of the edits; C = I if it takes C")
    add_model_options(parser)
    options = parser.parse_args(argv)
    model = load_from(options)
    if options.moments:
        for end in (model.n_layers, math.ceil(model.n_layers * DEPTHS[0])):
            print(time_moments(model, options.moments, range(end)))
        return 0
    takes_moment = "second_moment" in METHODS[options.method].config_type.__dataclass_fields__
    changes = [f"{options.method}.second_moment=identity"] if takes_moment else []
    _, settings = variants(model, [options.method], changes)[options.method]
    seconds, rates = list[float](), [matrix_rate(model)]
    for target in TARGETS:
        request = workflow.request_for(model, PROMPT, SUBJECT, "", target)
        began = perf_counter()
        edit = workflow.edit(model, request, options.method, settings)
        seconds.append(perf_counter() - began)
        began = perf_counter()
        report = workflow.evaluate(model, edit, request)
        seconds.append(perf_counter() - began)
    rates.append(matrix_rate(model))
    floor = metrics_work(model, report) / (sum(rates) / 2)
    print(
        f"{model.name}: edit {seconds[0]:.2f} s, five metrics {seconds[1]:.2f} s (floor {2 * floor:.2f}); a further "
        f"edit {seconds[2]:.2f} s, metrics {seconds[3]:.2f} s (floor {floor:.2f}); {len(report.rows)} prompts"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
