"""How a token is shown."""

from __future__ import annotations

VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\r": "↵", "\t": "⇥"})


def token_label(text: str) -> str:
    """A token for display: spaces as ␣, line ends as ↵, and something to see where there is nothing."""
    shown = "".join(character if character.isprintable() else "·" for character in text.translate(VISIBLE))
    return shown or "∅"
