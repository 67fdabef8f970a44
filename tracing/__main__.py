"""`python -m tracing "The Space Needle is located in the city of" --subject "Space Needle"`: a table and a figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast, get_args

from facts import Fact
from facts.atlas import load_atlas
from tracing.labels import SITE_NAMES, layer_title, token_label, token_labels
from tracing.types import SITES, TraceConfig, TraceResult, TraceSite, WindowCentre

FIGURE_FORMATS = ("pdf", "svg", "png")
LAYERS_PER_BLOCK = 16  # columns that fit a terminal
LITTLE = 0.05  # a total effect, as a difference of probabilities


def main(argv: Sequence[str] | None = None) -> int:
    """Trace, print, write; 0, or 2 with one sentence on stderr when the request cannot be met."""
    options = _parser().parse_args(argv)
    try:
        suffix = _figure_format(options.out)
        for path in filter(None, (options.out, options.html, options.csv, options.npz)):
            if not Path(path).parent.is_dir():  # said now, not after the work
                raise ValueError(f"there is no folder {str(Path(path).parent)!r} to write {path!r} into; make it first")
        result = _trace(options)
        _write(result, options, suffix)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(result.to_json())
    else:
        print(table(result))
        print(f"\nFigure written to {options.out}")
    return 0


def table(result: TraceResult) -> str:
    """The trace in text: probabilities, noise, indirect effects by token and layer, the suggested layer."""
    config, low_corrupted = result.config, float(result.corrupted.mean())
    pos, layer = result.peak()
    known = "" if result.answer_is_greedy else f"; the model would say {token_label(result.predicted.strip())!r}"
    lines = [
        f"model      {result.model_name} ({result.n_layers} layers), revision {result.revision[:12]}",
        f"answer     {token_label(result.answer)!r}{known}",
        f"noise      sigma {result.noise_std:.4g} = {config.noise:g} x the standard deviation of {result.noise_source}",
        f"samples    {config.samples}, seed {config.seed}",
        f"p(answer)  clean {result.clean:.4f}, corrupted {low_corrupted:.4f}, total effect {result.total_effect:.4f}",
        "",
        f"Indirect effect of restoring the {SITE_NAMES[config.site]}, by token (* subject) and {layer_title(result)}:",
    ]
    if result.total_effect < LITTLE:
        lines.insert(5, "           the corruption takes little away, so the map says little; try a larger --noise")
    names = token_labels(result)
    width = max(map(len, names)) + 1
    for start in range(0, result.n_layers, LAYERS_PER_BLOCK):
        layers = range(start, min(start + LAYERS_PER_BLOCK, result.n_layers))
        lines += ["", " " * width + "".join(f"{number:>7}" for number in layers)]
        for name, row in zip(names, result.indirect_effect, strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{row[number]:>7.3f}" for number in layers))
    lines += [
        "",
        f"Suggested layer: {layer}, where restoring the last subject token {token_label(result.tokens[pos])} has the "
        f"largest effect ({result.indirect_effect[pos, layer]:.3f}).",
        "A suggestion only: where a fact is traced to says little about where an edit works best (arXiv:2301.04213).",
    ]
    return "\n".join(lines)


def _trace(options: argparse.Namespace) -> TraceResult:
    fact = Fact.from_prompt(options.prompt, options.subject, options.answer or "")
    site = cast(TraceSite, options.site)
    # Torch and transformers take seconds to import: not for --help, nor for a prompt without its subject.
    from models import load_model
    from tracing.corruption import measure_noise
    from tracing.tracer import causal_trace

    model = load_model(options.model)
    default_window = 1 if site == "resid_post" else max(1, model.n_layers // 4)
    config = TraceConfig(
        site=site,
        window=default_window if options.window is None else options.window,
        window_centre=options.window_centre,
        noise=options.noise,
        samples=options.samples,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    level = measure_noise(model, load_atlas().subjects())
    return causal_trace(model, fact, config, level=level, progress=_progress())


def _write(result: TraceResult, options: argparse.Namespace, suffix: str) -> None:
    from tracing.plots import FigureFormat, figure_bytes, heatmap_html

    Path(options.out).write_bytes(figure_bytes(result, cast(FigureFormat, suffix), width_in=options.width))
    if options.html:
        Path(options.html).write_text(heatmap_html(result), encoding="utf-8")
    if options.csv:
        result.to_frame().to_csv(options.csv, index=False)
    if options.npz:
        result.save(options.npz)


def _figure_format(path: str) -> str:
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FIGURE_FORMATS:
        raise ValueError(f"cannot write a figure to {path!r}; end the name in .pdf, .svg or .png")
    return suffix


def _progress() -> Callable[[int, int], None] | None:
    """A counter on the terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{done}/{total} rows", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _parser() -> argparse.ArgumentParser:
    defaults = TraceConfig()
    parser = argparse.ArgumentParser(
        prog="python -m tracing",
        description="Causal tracing (Meng et al. 2022): which states of a language model carry a fact?",
    )
    parser.add_argument("prompt", help="a sentence that stops where the answer should come")
    parser.add_argument("--subject", required=True, help="the words of the prompt that name what it is about")
    parser.add_argument("--model", default="reference", help="'reference', a folder or a hub id (default: %(default)s)")
    parser.add_argument("--answer", help="the answer to follow (default: the model's own next token)")
    parser.add_argument("--site", choices=SITES, default=defaults.site, help="which state is restored")
    parser.add_argument("--window", type=int, help="layers restored together (default: 1, or a quarter of the layers)")
    parser.add_argument("--window-centre", choices=get_args(WindowCentre), default=defaults.window_centre)
    parser.add_argument("--noise", type=float, default=defaults.noise, help="x std of subject embeddings")
    parser.add_argument("--samples", type=int, default=defaults.samples, help="noise draws (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="rows in one forward pass")
    parser.add_argument("--out", default="trace.pdf", help="the figure: .pdf, .svg or .png (default: %(default)s)")
    parser.add_argument("--width", type=float, default=3.25, help="of the figure, in inches (default: %(default)s)")
    parser.add_argument("--html", help="also write an interactive page")
    parser.add_argument("--csv", help="also write every cell as a row")
    parser.add_argument("--npz", help="also write the trace itself, for TraceResult.load")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
