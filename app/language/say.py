"""What a page says, in the language of the session it is drawn for.

`say` translates words written where it is called, `said` a finished English sentence that comes from elsewhere, and
`later` marks words that are said later.  The language is looked up at each call, in the session's state; a worker
thread belongs to no session and speaks English, so workers return data and the page says the words.
"""

from __future__ import annotations

import os

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from facts.language.catalogue import translations
from facts.language.sentences import in_language
from facts.language.shell import ENGLISH

LANGUAGES = {ENGLISH: "EN", "zh": "中文"}
"""By their codes in links, with their names on the switch."""
FIRST = "ENGRAM_LANGUAGE"
"""The variable that sets the first language of every session, as a class needs it."""
KEY = "language"


def current() -> str:
    """Code of the language of the session whose script calls; English outside a script."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return ENGLISH
    return str(st.session_state.get(KEY) or ENGLISH)


def say(text: str, /, **values: object) -> str:
    """The words in the session's language, with the values at their names: `say("{n} tokens", n=3)`."""
    language = current()
    words = text if language == ENGLISH else translations(language).gettext(text)
    return words.format(**values) if values else words


def say_count(one: str, many: str, n: int, /, **values: object) -> str:
    """`say` for a number of things: `say_count("{n} fact", "{n} facts", 3)`; the number is the value `n`."""
    language = current()
    words = (one if n == 1 else many) if language == ENGLISH else translations(language).ngettext(one, many, n)
    return words.format(**{"n": n} | values)


def in_every_language(text: str) -> set[str]:
    """The words in English and in each other language; a tab is known to Streamlit by its label alone."""
    return {text, *(translations(language).gettext(text) for language in LANGUAGES if language != ENGLISH)}


_ACRONYMS = {"kl": "KL", "l2": "L2"}


def setting_label(name: str) -> str:
    """The name of a setting in English words: `kl_weight` is "KL weight"."""
    label = " ".join(_ACRONYMS.get(word, word) for word in name.split("_"))
    return label[:1].upper() + label[1:]


def later(text: str) -> str:
    """Mark words that `said` gets later, such as the label of a job, which has no language."""
    return text


def said(sentence: str) -> str:
    """A finished English sentence in the session's language; one that fits no template stays English."""
    language = current()
    return sentence if language == ENGLISH or not sentence else in_language(sentence, language)


def start() -> None:
    """Choose the session's first language: the link's, else the class's, else the browser's."""
    if KEY in st.session_state:
        return
    linked, browser = st.query_params.get("lang", ""), (st.context.locale or "").lower()
    wanted = (linked, os.environ.get(FIRST, ""), browser.partition("-")[0])
    st.session_state[KEY] = next((code for code in wanted if code in LANGUAGES), ENGLISH)
    st.session_state.language_linked = linked in LANGUAGES


def switch() -> None:
    """Draw the switch, and keep the language in the link once it was chosen."""
    st.segmented_control(
        "Language · 语言",
        list(LANGUAGES),
        required=True,
        format_func=LANGUAGES.__getitem__,
        key=KEY,
        label_visibility="collapsed",
        on_change=_switched,
    )
    if st.session_state.language_linked and st.query_params.get("lang") != current():
        st.query_params["lang"] = current()


def _switched() -> None:
    """Callback.  The browser sends the choice in a list as its label, which is now another one: set it by its code."""
    st.session_state.language_linked = True
    for key, value in st.session_state.items():
        if key != KEY and _is_choice(value):
            st.session_state[key] = value


def _is_choice(value: object) -> bool:
    codes = value if isinstance(value, list | tuple) and value else [value]
    return all(isinstance(code, str | int) and not isinstance(code, bool) for code in codes)
