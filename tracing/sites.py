"""The sites a trace can restore, and what each is called."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

TraceSite = Literal["resid_post", "mlp_out", "attn_out", "attn_heads"]
"""resid_post: a block's output.  mlp_out, attn_out: what MLP and attention write.  attn_heads: one head's part of what
the attention's output projection reads, so that a map has a head axis."""
SeveredSite = Literal["mlp_out", "attn_out"]
SITES: tuple[TraceSite, ...] = get_args(TraceSite)


class SiteNames(NamedTuple):
    """What a site is called."""

    code: str
    """In links."""
    short: str
    """On buttons, in tables and in names of files."""
    long: str
    """In titles and sentences."""


SITE_NAMES: dict[str, SiteNames] = {
    "resid_post": SiteNames("state", "State", "residual stream"),
    "mlp_out": SiteNames("mlp", "MLP", "MLP output"),
    "attn_out": SiteNames("attn", "Attention", "attention output"),
    "attn_heads": SiteNames("heads", "Heads", "attention head"),
}
LAYER_SITES: tuple[TraceSite, ...] = ("resid_post", "mlp_out", "attn_out")
"""Those with one state a layer, which make a map of tokens and layers."""


def site_of(map_name: str) -> str:
    """The site of a map of averages, whatever was severed: "resid_post" of "resid_post, mlp_out severed"."""
    return map_name.partition(",")[0]
