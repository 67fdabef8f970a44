"""Which way imports go, and which library may be used where (docs/architecture.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.floor_plan import Source, cycles, picture, upward

ROOT = Path(__file__).parents[1]
SOURCE = Source(ROOT)
MAY_IMPORT = {
    "facts": set(),
    "models": {"facts"},
    "tracing": {"models", "facts"},
    "editing": {"models", "facts"},
    "metrics": {"models", "facts"},
    "experiments": {"tracing", "editing", "metrics", "models", "facts"},
    "app": {"experiments", "tracing", "editing", "metrics", "models", "facts"},
    "engram": {"app", "experiments", "tracing", "editing", "metrics", "models", "facts"},
}
FENCED = {
    "streamlit": lambda path: path.parts[0] == "app",
    "nnsight": lambda path: path.parts[0] == "models",
    "transformers": lambda path: path.parts[0] == "models",
    "huggingface_hub": lambda path: path.parts[0] == "models",
    "gguf": lambda path: path.parts[0] == "models",
    "accelerate": lambda path: path.parts[0] == "models",
    "plotly": lambda path: path.name == "plots.py" or "plots" in path.parts,
    "matplotlib": lambda path: path.name == "plots.py" or "plots" in path.parts,
    "ray": lambda path: path == Path("experiments/workers/ray_cluster.py"),
}
SOURCES = sorted(path.relative_to(ROOT) for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import; write the package's name"
            names.add((node.module or "").partition(".")[0])
    return names


def is_entry_point(path: Path) -> bool:
    """A command line stands for the user, not for the library, and may reach up."""
    return path.name == "__main__.py"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    package = path.parts[0]
    if not is_entry_point(path):
        assert imported(path) & set(MAY_IMPORT) <= MAY_IMPORT[package] | {package}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_third_party_libraries_stay_behind_their_fence(path: Path) -> None:
    names = imported(path)
    for library, allowed in FENCED.items():
        assert library not in names or allowed(path), f"{path} imports {library}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_global_seed_and_no_markup_from_users(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.parts[:2] != ("models", "reference"):
        assert "torch.manual_seed(" not in text, "draw from a torch.Generator"
    assert "unsafe_allow_html=True" not in text


def test_no_module_imports_itself_by_any_way() -> None:
    assert cycles(SOURCE.imports) == [], "imports inside functions and under TYPE_CHECKING count"


def test_sub_folders_import_one_way() -> None:
    """Files that lie in no sub-folder may stand above and below: `tracing.types` and `tracing.tracer`."""
    between = {own: {other for other in others if "." in other} for own, others in SOURCE.folder_imports().items()}
    assert cycles({own: others for own, others in between.items() if "." in own}) == []


def test_one_door_leads_up() -> None:
    assert upward(SOURCE) == ["editing.__main__ -> app.edit_command"]


def test_the_picture_of_the_floors_is_drawn_from_the_imports() -> None:
    docs = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert picture(SOURCE) in docs, "run `python -m benchmarks.floor_plan` and put its picture into the docs"


def test_the_catalogue_is_readable_without_torch() -> None:
    script = "import models.sources.catalogue, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_the_facts_are_readable_without_torch() -> None:
    for path in SOURCES:
        if path.parts[0] == "facts":
            assert "torch" not in imported(path)
