"""`python -m tracing "The Space Needle is located in the city of" --subject "Space Needle"`: a table.

--out FILE also writes the figure; with --panels all it has three panels: states, MLP and attention.

python -m tracing trace PROMPT --subject S      one exact map (the word `trace` may be left out)
python -m tracing lens|knockout|attribution|paths|counterfactuals PROMPT --subject S
python -m tracing facts FILE --folder F         every fact of a CSV or JSON Lines file
python -m tracing average FILE|atlas            average effects over facts
python -m tracing open RESULT.npz ...           a saved result again; several maps of one prompt, or a difference
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast, get_args

from facts.language.shell import complain, told
from facts.pipes import outlive_reader
from facts.regular import check_place
from facts.spreadsheet import defused
from facts.watch import UNWATCHED, Watch
from models.options import add_model_options
from tracing.cli import commands
from tracing.cli.options import STYLE, add_config, add_output, add_prompt, add_style, check_config
from tracing.cli.output import Maps, Output
from tracing.measures import MEASURES
from tracing.sites import SITES, SeveredSite
from tracing.types import PositionName

FIGURE_FORMATS = ("pdf", "svg", "eps", "png", "zip")
Command = Callable[[argparse.Namespace, Watch], Output]
AddCommand = Callable[[str, str], argparse.ArgumentParser]
COMMANDS: dict[str, Command] = {
    "trace": commands.trace,
    "lens": commands.lens,
    "knockout": commands.knockout,
    "attribution": commands.attribution,
    "paths": commands.paths,
    "counterfactuals": commands.counterfactuals,
    "facts": commands.many,
    "average": commands.average,
    "open": commands.reopen,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 with one sentence on stderr if it fails."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments.insert(0, "trace")
    options = _parser().parse_args(arguments)
    try:
        _check_files(options)
        if hasattr(options, "samples"):
            check_config(options)
        output = COMMANDS[options.command](options, _watch())
        _write(output, options)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    for note in getattr(options, "notes", ()):
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print(output.result.to_json())
    else:
        print(output.table)
        if output.figure is not None:
            print(f"\n{_figure_line(output, options, arguments)}")
    return 0


def _check_files(options: argparse.Namespace) -> None:
    """Check before the work that all files can be written."""
    wanted = [
        getattr(options, name, None) for name in ("out", "html", "csv", "npz", "journal", "save_tuned", "per_fact")
    ]
    if getattr(options, "out", None) and Path(options.out).suffix.lower().lstrip(".") not in FIGURE_FORMATS:
        raise ValueError(f"cannot write a figure to {options.out!r}; end the name in .pdf, .svg, .eps, .png or .zip")
    for path in filter(None, wanted):
        check_place(path)


def _write(output: Output, options: argparse.Namespace) -> None:
    """Write the files that were asked for."""
    if options.csv:
        output.result.to_frame().map(defused).to_csv(options.csv, index=False)
    if getattr(options, "npz", None):
        output.result.save(options.npz)
    if output.figure is None or output.chart is None or not (options.out or options.html):
        return
    from tracing.plots import sheet

    if options.out:
        Path(options.out).write_bytes(_figure(output, options))
    if options.html:
        Path(options.html).write_text(sheet.page(output.chart()), encoding="utf-8")


def _figure(output: Output, options: argparse.Namespace) -> bytes:
    """The file of the figure, or everything around it as a zip."""
    from tracing.plots import sheet

    how = {} if options.width is None else {"width_in": options.width}
    style = {name: value for name in STYLE if (value := getattr(options, name, None)) is not None}
    if style and not output.styled:
        raise ValueError(f"this figure has no {', '.join(style)}; leave --{next(iter(style)).replace('_', '-')} out")
    if output.styled:
        from tracing.plots.paper import FigureStyle

        how["style"] = FigureStyle(**style)
    suffix = Path(options.out).suffix.lower().lstrip(".")
    if suffix == "zip":
        if output.bundle is None:
            raise ValueError(f"{options.out!r}: only maps and averages come as .zip; end the name in .pdf")
        return output.bundle(**how)
    record = sheet.run_record(getattr(output.result, "main", output.result))
    return sheet.export(output.figure(**how), cast(sheet.FigureFormat, suffix), record=record)  # type: ignore[misc]


def _figure_line(output: Output, options: argparse.Namespace, arguments: Sequence[str]) -> str:
    """Where the figure is, or the shortest command that writes it."""
    if options.out:
        return f"Figure written to {options.out}"
    if options.npz and not isinstance(output.result, Maps):  # maps are saved as a file each
        measure = getattr(options, "measure", MEASURES[0])
        arguments = ["open", options.npz, *(["--measure", measure] if measure != MEASURES[0] else [])]
    return f"For the figure: python -m tracing {shlex.join(arguments)} --out {options.command}.pdf"


def _watch() -> Watch:
    """A counter on the terminal, nothing in a pipe."""

    def show(done: int, total: int, stage: str) -> None:
        print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return Watch(show) if sys.stderr.isatty() else UNWATCHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tracing",
        description=told("Which states of a language model carry a fact?  Causal tracing (Meng et al. 2022)."),
        epilog=told("A prompt in place of a command is traced; COMMAND --help lists the options of a command."),
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text, description=text)
        add_model_options(added)
        return added

    _add_traces(command)
    _add_lenses(command)
    _add_many(command)
    shown = told("show a saved result")
    opening = subparsers.add_parser("open", help=shown, description=shown)
    opening.add_argument("path", nargs="+", help="what --npz wrote; several maps of one prompt make one figure")
    opening.add_argument("--difference", action="store_true", help="of two maps: draw both, and the second minus first")
    _add_measure(opening)
    add_output(opening)
    add_style(opening)
    return parser


def _add_traces(command: AddCommand) -> None:
    tracing = command("trace", told("trace one prompt exactly"))
    add_prompt(tracing)
    add_config(tracing)
    tracing.add_argument("--panels", choices=("one", "all"), default="one", help="all: states, MLP and attention")
    _add_measure(tracing)
    add_output(tracing)
    add_style(tracing)
    estimating = command("attribution", told("estimate the map from one backward pass (attribution patching)"))
    add_prompt(estimating)
    add_config(estimating, without=("severed", "batch_size", "against"))
    estimating.add_argument("--verify", type=int, default=0, help="compute this many of the largest cells exactly")
    estimating.add_argument("--neurons", action="store_true", help="estimate single neurons instead of a site's cells")
    add_output(estimating)
    patching = command("paths", told("patch the paths from one state through each later module"))
    add_prompt(patching)
    patching.add_argument("--sender", required=True, help="site:layer:position, such as mlp_out:3:5 (-1 is the last)")
    through = ("nothing", "mlps")
    patching.add_argument("--through", choices=through, default=through[0], help="computed, not held, in between")
    add_config(patching, without=("site", "window", "window_centre", "severed", "batch_size", "against"))
    add_output(patching)


def _add_lenses(command: AddCommand) -> None:
    reading = command("lens", told("read every state through the final norm and head (logit lens)"))
    add_prompt(reading)
    reading.add_argument("--target", default="", help="another word to follow, such as the answer after an edit")
    reading.add_argument("--top-k", type=int, default=5, help="predictions kept at every cell (default: %(default)s)")
    reading.add_argument("--tuned", action="store_true", help="translate states first, fitted on the model's own text")
    reading.add_argument("--tuned-from", help="the same with translators saved before")
    reading.add_argument("--save-tuned", help="save the fitted translators to this file")
    add_output(reading)
    cutting = command("knockout", told("cut attention edges from the last token to subject, relation and itself"))
    add_prompt(cutting)
    cutting.add_argument("--window", type=int, help="layers cut together (default: a fifth of the layers)")
    add_output(cutting)
    suggesting = command("counterfactuals", told("suggest other subjects of as many tokens, from the atlas"))
    add_prompt(suggesting)
    suggesting.add_argument("--limit", type=int, default=10, help="how many at most (default: %(default)s)")
    add_output(suggesting, figure=False)


def _add_many(command: AddCommand) -> None:
    several = command("facts", told("trace every fact of a CSV or JSON Lines file"))
    _add_facts(several)
    several.add_argument("--folder", required=True, help="where each trace and summary.csv go")
    add_config(several)
    add_output(several, figure=False)
    averaging = command("average", told("average effects over facts, by kind of token"))
    _add_facts(averaging)
    sites: tuple[str, ...] = ("resid_post", "mlp_out", "attn_out")
    averaging.add_argument("--sites", nargs="+", choices=SITES, default=sites, help="one map each")
    modules = get_args(SeveredSite)
    averaging.add_argument("--sever", nargs="*", choices=modules, default=(), help="a map of states with it severed")
    averaging.add_argument("--positions", nargs="+", choices=get_args(PositionName), help="these tokens only: faster")
    averaging.add_argument("--per-fact", help="also write every fact's effects as a table (.csv)")
    averaging.add_argument("--journal", help="a file that finished facts are added to; a stopped run resumes from it")
    add_config(averaging, without=("site", "severed"))
    add_output(averaging)
    add_style(averaging)


def _add_facts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("facts", help="a .csv, .jsonl or .json file with subject, prompt and answer, or 'atlas'")
    parser.add_argument("--limit", type=int, help="trace only the first LIMIT facts")
    parser.add_argument("--facts-seed", type=int, default=0, help="which facts of the atlas (default: %(default)s)")


def _add_measure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measure", choices=MEASURES, default=MEASURES[0], help="what the map shows")


if __name__ == "__main__":
    outlive_reader()
    sys.exit(main())
