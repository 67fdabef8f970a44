"""The floors of the source: `python -m benchmarks.floor_plan [FOLDER]`

Prints the picture of docs/architecture.md, drawn from the imports, and figures that say how easily the source is read:
import cycles, flat folders, duplicated lines, long functions.  tests/test_fences.py holds the rules.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FLOORS = (("engram",), ("app",), ("experiments",), ("tracing", "editing", "metrics"), ("models",), ("facts",))
"""Packages from the top down; those of one floor do not import each other."""
RUN = 6
"""Lines that are duplicated together from this many on are counted."""

Edges = Mapping[str, set[str]]
"""Module -> the modules it imports."""


@dataclass(frozen=True)
class Source:
    """The Python files of a checkout.

    Args:
        root: the checkout.
    """

    root: Path

    @cached_property
    def trees(self) -> dict[Path, ast.Module]:
        """Every file, relative to the root, parsed."""
        paths = [path for floor in FLOORS for name in floor for path in sorted((self.root / name).rglob("*.py"))]
        return {path.relative_to(self.root): ast.parse(path.read_text(encoding="utf-8")) for path in paths}

    @cached_property
    def imports(self) -> Edges:
        """Imports between modules, counting those inside functions and under TYPE_CHECKING."""
        modules = {module_of(path): path for path in self.trees}
        return {
            module: {at for name in imported(self.trees[path]) if (at := _longest(name, modules)) and at != module}
            for module, path in modules.items()
        }

    def folder_imports(self) -> Edges:
        """Which sub-folder of a package imports which other one of the same package."""
        edges = defaultdict[str, set[str]](set)
        for module, others in self.imports.items():
            own = self._folder(module)
            edges[own] |= {
                folder for other in others if (folder := self._folder(other)) != own and _top(folder) == _top(own)
            }
        return edges

    def _folder(self, module: str) -> str:
        """ "package.folder", or "package" for a file that lies in no sub-folder."""
        is_package = Path(*module.split("."), "__init__.py") in self.trees
        parts = module.split(".") if is_package else module.split(".")[:-1]
        return ".".join(parts[:2])


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names of everything a file imports, at any depth of nesting."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _longest(name: str, modules: Mapping[str, Path]) -> str:
    """The module a dotted name lies in; empty where it is not one of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _top(name: str) -> str:
    return name.partition(".")[0]


def cycles(edges: Edges) -> list[list[str]]:
    """Groups of modules each of which imports, by some way, every other."""
    reached = {node: _reached(node, edges) for node in edges}
    groups = {frozenset(other for other in reached[node] if node in reached[other]) for node in edges}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def _reached(start: str, edges: Edges) -> set[str]:
    seen, waiting = set[str](), [start]
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def upward(source: Source) -> list[str]:
    """Imports that go up a floor or across one."""
    height = {name: number for number, floor in enumerate(reversed(FLOORS)) for name in floor}
    return sorted(
        f"{module} -> {other}"
        for module, others in source.imports.items()
        for other in others
        if _top(other) != _top(module) and height[_top(other)] >= height[_top(module)]
    )


def picture(source: Source) -> str:
    """The floors as text: packages from the top down, and in each its sub-folders in the order of their imports."""
    lines = []
    for number, floor in enumerate(FLOORS):
        lines += ["      |"] if number else []
        for package in floor:
            folders = " > ".join(_ordered(package, source))
            lines.append(f"{package:<12}{folders}")
    return "\n".join(line.rstrip() for line in lines)


def _ordered(package: str, source: Source) -> list[str]:
    """The sub-folders in ranks, importers first; those of one rank are joined by commas."""
    edges = {
        own: {other for other in others if other != package}
        for own, others in source.folder_imports().items()
        if own.startswith(f"{package}.")
    }
    ranks: list[list[str]] = []
    while edges:
        free = sorted(edges.keys() - set().union(*edges.values())) or sorted(edges)
        ranks.append([name.partition(".")[2] for name in free])
        edges = {own: others for own, others in edges.items() if own not in free}
    return [", ".join(rank) for rank in ranks]


def figures(source: Source) -> list[tuple[str, str]]:
    """What is counted, and the count."""
    texts = [(source.root / path).read_text(encoding="utf-8") for path in source.trees]
    folders = defaultdict[Path, int](int)
    for path in source.trees:
        folders[path.parent] += 1
    largest = max(folders, key=lambda folder: folders[folder])
    documented, public = _documented(source)
    long = [name for tree in source.trees.values() for name in _long_functions(tree)]
    return [
        ("files in the largest flat folder", f"{folders[largest]} ({largest})"),
        ("import cycles, lazy imports counted", str(len(cycles(source.imports)))),
        ("imports that go up a floor", str(len(upward(source)))),
        ("lines of source", f"{sum(text.count(chr(10)) for text in texts):,}"),
        (f"runs of {RUN} or more duplicated lines", str(_duplicated(texts))),
        ("public names documented", f"{documented} of {public}"),
        ("functions over 60 lines", str(len(long))),
        (
            "annotations `Progress` and `Cancelled`",
            str(sum(len(re.findall(r": (?:Progress|Cancelled)\b", text)) for text in texts)),
        ),
    ]


def _documented(source: Source) -> tuple[int, int]:
    """Public functions, classes and methods with a docstring, and all of them."""
    nodes = [node for tree in source.trees.values() for node in _public(tree)]
    return sum(ast.get_docstring(node) is not None for node in nodes), len(nodes)


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


def _long_functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
            yield node.name


def _duplicated(texts: list[str]) -> int:
    """Places where at least `RUN` lines follow each other as they did before; blank lines and imports do not count."""
    seen, runs = set[tuple[str, ...]](), 0
    for text in texts:
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if len(line) > 1 and not line.startswith(("import ", "from "))]
        before = False
        for start in range(len(lines) - RUN + 1):
            window = tuple(lines[start : start + RUN])
            runs += window in seen and not before
            before = window in seen
            seen.add(window)
    return runs


def main(argv: list[str] | None = None) -> int:
    """Print the picture and the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor_plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="the checkout; this one by default")
    source = Source(parser.parse_args(argv).folder)
    print(picture(source))
    print()
    for name, count in figures(source):
        print(f"{name:<42}{count}")
    for group in cycles(source.imports):
        print("cycle:", ", ".join(group))
    for line in upward(source):
        print("upward:", line)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
