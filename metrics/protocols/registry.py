"""Every protocol by its id.  A new protocol is a file and a line here."""

from __future__ import annotations

from metrics.protocols import counterfact_plus, easyedit, engram, rome, wild
from metrics.protocols.base import Protocol

_ALL = (
    engram.PROTOCOL,
    rome.PROTOCOL,
    easyedit.PROTOCOL,
    wild.PROTOCOL,
    counterfact_plus.PROTOCOL,
)

PROTOCOLS: dict[str, Protocol] = {protocol.id: protocol for protocol in _ALL}


def get_protocol(name: str) -> Protocol:
    """A protocol by its id.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
