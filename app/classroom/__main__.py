"""`python -m app.classroom [classroom.toml]`: serve the page to a class (docs/classroom.md), as `make class` does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import segno

from app.__main__ import main as serve
from app.classroom.settings import read_classroom
from app.server.catalog import OFFERED, offer
from facts.language.shell import complain
from facts.pipes import outlive_reader


def main(arguments: list[str] | None = None) -> int:
    """Print the link and its QR code, then serve; 2 if the file is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        classroom = read_classroom(Path(given[0] if given else "classroom.toml"))
        os.environ.pop(OFFERED, None)
        offered = offer().models
        missing = [name for name in classroom.models if name not in offered]
        if missing:
            raise ValueError(f"models names {missing[0]!r}, which is not here; choose from {', '.join(offered)}")
    except ValueError as error:
        complain(error)
        return 2
    os.environ.update(classroom.environment())
    print(f"The class opens {classroom.link}\nThe same link with its code to scan is on the page Class.\n")
    segno.make(classroom.link, error="m").terminal(compact=True)
    serve(given[1:])
    return 0


if __name__ == "__main__":
    outlive_reader()
    raise SystemExit(main())
