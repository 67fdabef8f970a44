"""What a command line says, in the language of the locale: the first line of its help, and its errors."""

from __future__ import annotations

import gettext
import os
import re
import sys
from functools import cache

from facts.language.catalogue import DOMAIN, FOLDER, po_file, translations
from facts.language.sentences import in_language

ENGLISH = "en"
_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""In gettext's order; the first that is set counts, and LANGUAGE may list several languages."""


def language() -> str:
    """Code of the first language of the locale that is spoken here; English if there is none."""
    wanted = next(filter(None, map(os.environ.get, _VARIABLES)), "")
    codes = (re.split(r"[_.@-]", name)[0].lower() for name in wanted.split(":"))
    return next((code for code in codes if code == ENGLISH or (code.isalpha() and po_file(code).exists())), ENGLISH)


def told(text: str) -> str:
    """The words in the language of the locale.  Write them in the call, where `python -m app.language` finds them."""
    return in_language(text, spoken) if (spoken := _spoken()) != ENGLISH else text


def complain(error: object) -> None:
    """Print an error's sentence to stderr."""
    mark = ": " if _spoken() == ENGLISH else "："
    sys.stderr.write(f"{told('error')}{mark}{told(str(error))}\n")


@cache
def _spoken() -> str:
    """The language of the locale, which from now on argparse speaks too."""
    code = language()
    if code != ENGLISH:
        translations(code)  # made where it is missing
        gettext.bindtextdomain(DOMAIN, FOLDER)
        gettext.textdomain(DOMAIN)
    return code
