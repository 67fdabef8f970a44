"""`python -m app.language extract|compile|check`: the translations (CONTRIBUTING.md says how to add words).

extract updates the .po file from the source, compile makes the .mo file, check says what has no translation.
"""

from __future__ import annotations

import argparse

from app.language.extract import LANGUAGE, untranslated, update, words
from facts.language.catalogue import compiled, mo_file
from facts.language.shell import told
from facts.pipes import outlive_reader


def main() -> int:
    """Run one of the commands; 1 if something has no translation."""
    parser = argparse.ArgumentParser(prog="python -m app.language", description=told(__doc__ or ""))
    parser.add_argument("command", choices=("extract", "compile", "check"))
    command = parser.parse_args().command
    if command == "compile":
        mo_file(LANGUAGE).parent.mkdir(parents=True, exist_ok=True)
        mo_file(LANGUAGE).write_bytes(compiled(LANGUAGE))
        return 0
    if command == "extract":
        update()
    missing = untranslated()
    for word in missing:
        print(f"MISSING {word.place}: {word.text}")
    print(f"{len(words()) - len(missing)} of {len(words())} translated")
    return int(bool(missing))


if __name__ == "__main__":
    outlive_reader()
    raise SystemExit(main())
