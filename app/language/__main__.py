"""`python -m app.language extract|compile|check`: the translations of the page (CONTRIBUTING.md says how to add words).

extract updates the .po file from the source, compile makes the .mo file, check says what has no translation.
"""

from __future__ import annotations

import argparse

from app.language.catalogue import compiled, mo_file
from app.language.extract import LANGUAGE, untranslated, update, words
from facts.pipes import outlive_reader


def main() -> int:
    """Run one of the commands; 1 if `check` finds words of the pages without a translation."""
    parser = argparse.ArgumentParser(prog="python -m app.language", description=__doc__)
    parser.add_argument("command", choices=("extract", "compile", "check"))
    command = parser.parse_args().command
    if command == "compile":
        mo_file(LANGUAGE).write_bytes(compiled(LANGUAGE))
        return 0
    if command == "extract":
        update()
    missing = untranslated()
    for word in missing:
        print(f"{'sentence' if word.sentence else 'MISSING '} {word.place}: {word.text}")
    of_pages = [word for word in missing if not word.sentence]
    print(f"{len(words()) - len(missing)} of {len(words())} translated; {len(of_pages)} words of the pages are missing")
    return int(bool(of_pages))


if __name__ == "__main__":
    outlive_reader()
    raise SystemExit(main())
