"""MkDocs hooks: files of the repository's root are pages of the site too, and links between the two work there.

README.md is the site's first page.  `make docs` builds it; `mkdocs serve` shows it while you write.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
"""Files of the root and their names on the site."""
ASSETS = ("LICENSE", "CITATION.cff")
_FROM_ROOT = re.compile(r"\]\(docs/")
_FROM_DOCS = re.compile(r"\]\(((?:\.\./)+)(" + "|".join(map(re.escape, [*PAGES, *ASSETS])) + r")")


def on_files(files: Files, config: Any) -> Files:
    """Add the root's files."""
    for name, page in PAGES.items():
        text = _FROM_ROOT.sub("](", (ROOT / name).read_text(encoding="utf-8")).replace("](README.md", "](index.md")
        files.append(File.generated(config, page, content=text))
    for name in ASSETS:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links from docs/ to the root lead to those pages."""
    depth = page.file.src_uri.count("/")
    return _FROM_DOCS.sub(lambda match: "](" + "../" * depth + PAGES.get(match[2], match[2]), markdown)
