"""The command line's options: one for every field of TraceConfig, and those that all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tracing.config import TraceConfig
from tracing.plots.colours import Palette
from tracing.sites import TraceSite

FIELDS = {field.name: field for field in fields(TraceConfig)}


def add_prompt(parser: argparse.ArgumentParser) -> None:
    """The prompt, its subject and its answer."""
    parser.add_argument("prompt", help="a sentence that stops where the answer should come")
    parser.add_argument("--subject", required=True, help="the words of the prompt that name what it is about")
    parser.add_argument("--answer", default="", help="the answer to follow (default: the model's own next token)")
    parser.add_argument(
        "--occurrence", type=int, default=0, help="where the subject stands more than once: which, counted from 0"
    )


def add_output(parser: argparse.ArgumentParser, *, figure: bool = True) -> None:
    """Where the result goes; `figure` says whether it is more than a table."""
    if figure:
        parser.add_argument(
            "--out", metavar="FILE", help="also write the figure: .pdf, .svg, .eps or .png; maps also as .zip"
        )
        parser.add_argument("--width", type=float, help="of the figure, in inches (3.25 for a column)")
        parser.add_argument("--html", help="also write an interactive page")
        parser.add_argument("--npz", help="also save the result itself, for `python -m tracing open`")
    parser.add_argument("--csv", help="also write every number as a table")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def add_style(parser: argparse.ArgumentParser) -> None:
    """The looks of a figure of maps; a name in .zip takes everything a paper needs."""
    group = parser.add_argument_group("the figure (--out; a name in .zip: all formats, LaTeX, BibTeX, CSV, JSON)")
    group.add_argument("--palette", choices=get_args(Palette), help="colours (default: rome, the paper's)")
    group.add_argument("--marks", choices=("dots", "none"), help="dots where the 95%% interval includes 0, or none")
    group.add_argument("--title", help="above the figure (default: none, since a caption carries it)")
    group.add_argument("--model-name", help="the model's name in the figure, as you write it")


STYLE = ("palette", "marks", "title", "model_name")
"""What `add_style` adds."""


WINDOW = "1, a quarter of the layers for MLP and attention"
"""What `usual_window` gives."""


def add_config(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """An option for every field of TraceConfig except `without`; omitted options keep the default."""
    hints = get_type_hints(TraceConfig)
    group = parser.add_argument_group("the trace")
    for name, field in FIELDS.items():
        if name in without:
            continue
        flag, hint = f"--{name.replace('_', '-')}", hints[name]
        default = WINDOW if name == "window" else _default(field.default)
        text = f"{field.metadata.get('help', '')} (default: {default})"
        if get_origin(hint) in (Union, UnionType):
            (hint,) = [choice for choice in get_args(hint) if choice is not NoneType]
        if hint is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif get_origin(hint) is Literal:
            group.add_argument(flag, choices=get_args(hint), help=text)
        else:
            group.add_argument(flag, type=hint, help=text)


def config_of(options: argparse.Namespace, n_layers: int, **changes: Any) -> TraceConfig:
    """The config of the options; modules are restored in windows of a quarter of the layers by default.

    Raises:
        ValueError: as TraceConfig.
    """
    given = {name: getattr(options, name, None) for name in FIELDS}
    values = {name: value for name, value in given.items() if value is not None} | changes
    if "counterfactual" in values and "corruption" not in values:
        values["corruption"] = "token"
    site: TraceSite = values.get("site", "resid_post")
    if "window" not in values:
        values["window"] = usual_window(site, n_layers)
    return TraceConfig(**values)


def check_config(options: argparse.Namespace) -> None:
    """Refuse wrong settings of a trace before a model is loaded.

    Raises:
        ValueError: as TraceConfig.
    """
    config_of(options, 1, **({"counterfactual": "chosen later"} if without_counterfactual(options) else {}))


def usual_window(site: TraceSite, n_layers: int) -> int:
    """Layers restored together: one for states and heads, a quarter of the layers for MLP and attention outputs."""
    return max(1, n_layers // 4) if site in ("mlp_out", "attn_out") else 1


def without_counterfactual(options: argparse.Namespace) -> bool:
    """Whether the corruption needs another subject and none was given."""
    return bool(options.corruption == "token" and not options.counterfactual)


def _default(value: object) -> str:
    return "none" if value in (None, "") else str(value)
