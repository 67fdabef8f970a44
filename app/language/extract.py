"""Collect the English words of the pages into the .po files: `python -m app.language extract`.

Three kinds of words are msgids:

- what `say`, `say_count` and `later` are called with on the pages, and `told` in command lines;
- words that come as data: names and definitions of metrics, methods and settings, sites, stages of long work;
- sentences that other packages make, read off their f-strings: `f"layer {layer} is out of range"` becomes
  `layer {layer} is out of range`.  They carry the comment `sentence`.  Left out are those that no reader sees, in the
  server's log or of an AttributeError, and templates with too few letters to be told from others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.language.say import setting_label
from facts.language.catalogue import FEWEST_LETTERS, names_in, own_letters, po_file

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE = "zh"
SENTENCE = "sentence"
RAISED_IN = ("facts", "models", "tracing", "editing", "metrics", "experiments", "app")
"""Packages whose errors are sentences for readers."""
SENTENCES_OF = (
    "app/batch/prepare.py",
    "app/batch/sweeps.py",
    "app/every_layer.py",
    "app/runs/average_runs.py",
    "app/runs/files.py",
    "app/runs/two_runs.py",
    "app/server/errors.py",
    "app/server/jobs.py",
    "app/session/form.py",
    "editing/applied/view.py",
    "editing/configs.py",
    "editing/files.py",
    "editing/methods/grace.py",
    "editing/methods/in_context.py",
    "editing/methods/kn.py",
    "editing/methods/trained/ke.py",
    "editing/methods/trained/learned.py",
    "editing/methods/wise.py",
    "editing/parts/diagnosis.py",
    "editing/preflight.py",
    "experiments/guard.py",
    "experiments/kinds.py",
    "experiments/runner.py",
    "experiments/studies/__init__.py",
    "experiments/workers/processes.py",
    "experiments/workers/ray_cluster.py",
    "experiments/workers/worker.py",
    "facts/importers/build.py",
    "facts/importers/fact_list.py",
    "facts/importers/fields.py",
    "facts/importers/files/split.py",
    "facts/importers/files/text.py",
    "facts/importers/read.py",
    "facts/importers/values.py",
    "facts/names.py",
    "facts/records.py",
    "metrics/asking/scoring.py",
    "metrics/behaviour.py",
    "metrics/efficiency.py",
    "metrics/protocols/base.py",
    "models/cards.py",
    "models/remote/jobs.py",
    "models/sources/child.py",
    "models/sources/folder.py",
    "models/sources/hub.py",
    "models/sources/index.py",
    "models/sources/load.py",
    "models/sources/manifest.py",
    "models/text/asking.py",
    "models/text/tokens.py",
    "tracing/corruption.py",
    "tracing/engine/averaging.py",
    "tracing/engine/memory.py",
    "tracing/plots/labels.py",
    "tracing/plots/maps.py",
    "tracing/suggestion.py",
)
"""Files whose other sentences readers see too: suggestions, warnings, reasons."""

ARGPARSE = (
    "usage: ",
    "positional arguments",
    "options",
    "show this help message and exit",
    "%(prog)s: error: %(message)s\n",
    "argument %(argument_name)s: %(message)s",
    "the following arguments are required: %s",
    "unrecognized arguments: %s",
    "invalid choice: %(value)r (choose from %(choices)s)",
    "invalid %(type)s value: %(value)r",
    "expected one argument",
    "expected at least one argument",
)
"""Python's own words of a command line, which it looks up by gettext."""


@dataclass(frozen=True)
class Word:
    """A msgid, or two: one and many."""

    text: str | tuple[str, str]
    place: str
    """The file it is in."""
    sentence: bool = False
    """Made elsewhere with its values in it."""


def words() -> list[Word]:
    """Every msgid of the source, once."""
    found = [*_said(), *_data(), *_sentences()]
    once: dict[str, Word] = {}
    for word in found:
        once.setdefault(word.text if isinstance(word.text, str) else word.text[0], word)
    return list(once.values())


def update(language: str = LANGUAGE) -> Catalog:
    """Write the .po file anew: translations stay, new words are empty, words no longer in the source go."""
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import read_po, write_po

    path = po_file(language)
    with path.open("rb") as file:
        old = read_po(file, locale=language)
    new = Catalog(language, header_comment=old.header_comment, project="Engram", version="1", fuzzy=False,
                  msgid_bugs_address="-", last_translator="-", language_team=language,
                  creation_date=old.creation_date, revision_date=old.creation_date)  # fmt: skip
    for word in words():
        known = old.get(word.text if isinstance(word.text, str) else word.text[0])
        string: Any = known.string if known is not None else ""
        comments = [SENTENCE] if word.sentence else []
        new.add(word.text, string or None, locations=[(word.place, 0)], auto_comments=comments)
    with path.open("wb") as file:
        write_po(file, new, width=120, omit_header=False, include_lineno=False)
    return new


def untranslated(language: str = LANGUAGE) -> list[Word]:
    """Words without a translation, sentences among them."""
    from babel.messages.pofile import read_po

    with po_file(language).open("rb") as file:
        known = read_po(file, locale=language)
    return [word for word in words() if not _filled(known, word)]


def _filled(known: Catalog, word: Word) -> bool:
    message = known.get(word.text if isinstance(word.text, str) else word.text[0])
    return message is not None and bool(message.string) and not message.fuzzy


# ---- words of the pages


def _said() -> Iterator[Word]:
    for path, tree in _files((*RAISED_IN, "engram")):
        for node in ast.walk(tree):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in ("say", "later", "say_count", "told"):
                assert isinstance(node, ast.Call)
                if name == "told" and node.args and ast.unparse(node.args[0]).startswith("__doc__"):
                    yield Word(ast.get_docstring(tree, clean=False) or "", path)
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                if name == "say_count" and len(texts) == 2:
                    yield Word((texts[0], texts[1]), path)
                else:
                    yield from (Word(text, path) for text in texts[:1])


# ---- words that come as data


def _data() -> Iterator[Word]:
    """Names and definitions from the tables of other packages, and the stages of long work."""
    import dataclasses
    import sys
    from typing import get_args

    from editing import METHODS
    from experiments.studies import survey
    from facts.types import ProbeKind
    from metrics.definitions import DEFINITIONS, METRICS
    from metrics.protocols import PROTOCOLS
    from metrics.tables import HEADERS
    from models.sources.catalogue import ENTRIES
    from tracing.measures import UNITS
    from tracing.plots import labels
    from tracing.plots.colours import BELOW_ZERO
    from tracing.sites import SITE_NAMES

    tables: dict[str, list[str]] = {
        "metrics/definitions.py": [text for one in METRICS.values() for text in (one.name, one.label, one.question)]
        + [text for one in DEFINITIONS.values() for text in (one.label, one.sentence, one.unit)],
        "metrics/protocols": [one.title for one in PROTOCOLS.values()],
        "tracing/sites.py": [text for names in SITE_NAMES.values() for text in (names.short, names.long)],
        "tracing/plots/labels.py": [
            *labels.CATEGORY_NAMES.values(),
            *labels.NEGATIVE.values(),
            labels.MARKED,
            *(words.replace("{}", "{answer}") for words in labels.MEASURED.values()),
            BELOW_ZERO,
        ],
        "metrics/tables.py": list(HEADERS),
        "models/sources/catalogue.py": [entry.title for entry in ENTRIES.values() if entry.source == "bundled"],
        "experiments/studies": [study.HELP for study in survey().studies.values()],
        "argparse": list(ARGPARSE),
        "facts/types.py": [kind.replace("_", " ") for kind in get_args(ProbeKind)],
        "tracing/measures.py": [
            text for unit in UNITS.values() for text in (unit, f"Indirect effect ({unit})", f"{unit} restored")
        ],
        "tracing/average.py": [
            labels.map_title(f"resid_post, {severed} severed") for severed in ("mlp_out", "attn_out")
        ],
    }
    for method in METHODS.values():
        module = sys.modules[type(method).__module__]
        fields = [knob for knob in dataclasses.fields(method.config_type) if "help" in knob.metadata]
        knobs = [text for knob in fields for text in (setting_label(knob.name), str(knob.metadata["help"]))]
        opening = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        place = module.__name__.replace(".", "/") + ".py"
        tables.setdefault(place, []).extend((method.title, method.family, opening, *knobs))
    for place, texts in tables.items():
        yield from (Word(text, place) for text in texts if any(map(str.isalpha, text)))
    yield from _stages()


def _stages() -> Iterator[Word]:
    """What long work says it is doing, and what the numbers of an edit mean."""
    for path, tree in _files(RAISED_IN):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = _called(node)
            if called in ("step", "tell") and len(node.args) == 3:
                yield from _constants(node.args[2], path)
            elif called == "Diagnostic":
                yield from (word for arg in (*node.args, *(key.value for key in node.keywords))
                            for word in _constants(arg, path))  # fmt: skip


def _called(call: ast.Call) -> str:
    """The name of what is called, without where it lives."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _constants(node: ast.expr, path: str) -> Iterator[Word]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip():
        yield Word(node.value, path)


# ---- sentences made elsewhere


def _sentences() -> Iterator[Word]:
    for path, tree in _files((*RAISED_IN, "engram")):
        errors = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _speaks(node)]
        texts = [text for call in errors for arg in call.args for text in _templates(arg)]
        if path in SENTENCES_OF:
            texts += _all_templates(tree)
        yield from (Word(text, path, sentence=True) for text in texts if _is_sentence(text))


def _speaks(call: ast.Call) -> bool:
    """Whether it is a call such as `ValueError(sentence)`, `row.error(field, sentence)` or `told(sentence)`."""
    name = _called(call)
    if name == "AttributeError" or _logs(call):
        return False
    return name.endswith("Error") or name in ("error", "complain", "told")


def _is_sentence(text: str) -> bool:
    short = bool(names_in(text)) and own_letters(text) < FEWEST_LETTERS
    return " " in text.strip() and not text.endswith("\n") and not short


def _all_templates(tree: ast.Module) -> list[str]:
    """Every string of a file that is no docstring, no part of another one and not for the log."""
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) or _logs(node)
             for part in ast.walk(node) if part is not node}  # fmt: skip
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        text
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inner | documents
        for text in _templates(node)
    ]


def _logs(node: ast.AST) -> bool:
    """Whether it is a call such as `logger.error(...)`."""
    of = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
    return isinstance(of, ast.Name) and of.id == "logger"


def _templates(node: ast.expr) -> list[str]:
    """The template of a string or an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if not isinstance(node, ast.JoinedStr):
        return []
    names: dict[str, str] = {}
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value).replace("{", "{{").replace("}", "}}")
        elif isinstance(part, ast.FormattedValue):
            text += "{" + _name(part.value, names) + "}"
    return [text]


def _name(value: ast.expr, names: dict[str, str]) -> str:
    """A name for an expression, the same for the same expression: `len(tokens)` is `tokens`."""
    source = ast.unparse(value)
    node = value
    while not isinstance(node, ast.Name | ast.Attribute):
        match node:
            case ast.Call(args=[first, *_]):
                node = first
            case ast.Call(func=inner) | ast.Subscript(value=inner) | ast.BinOp(left=inner) | ast.Starred(value=inner):
                node = inner
            case _:
                break
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else "value"
    name = name.lstrip("_")
    if source not in names:
        taken = set(names.values())
        names[source] = next(
            word for number in range(1, 99) if (word := name + (str(number) * (number > 1))) not in taken
        )
    return names[source]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _files(packages: tuple[str, ...]) -> Iterator[tuple[str, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), _parsed(path)
