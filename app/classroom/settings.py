"""What `classroom.toml` says, checked, and the variables that tell the server."""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.classroom.names import LINK, PAGES
from app.server.catalog import OFFERED
from app.session.state import FIELDS

LARGE_TEXT = "19"
"""Pixels of ordinary text; 15 without."""
Page = Literal["workbench", "lessons", "runs", "batch", "methods"]
LinkField = Literal[*FIELDS, "run", "revision"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Table):
    """What one class may ask of the computer."""

    seconds: int = Field(60, ge=1, le=3600)
    """Of one trace or edit."""
    sessions: int = Field(60, ge=1, le=500)
    """Open pages at a time."""


class Classroom(_Table):
    """One class."""

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("reference", "glass-box")
    """Names of the list of models; others are not offered."""
    pages: tuple[Page, ...] = ("workbench", "lessons", "runs", "methods")
    language: Literal["en", "zh"] = "en"
    """Of every first visit; each pupil may switch."""
    large_text: bool = True
    address: str = ""
    """Name or number of this computer in the network; empty: found out."""
    port: int = Field(8501, ge=1, le=65535)
    start: dict[LinkField, str | int | float] = Field(default_factory=lambda: {"run": 1})
    """Fields of the link on the board, as they stand in any link of the Workbench."""
    limits: Limits = Limits()

    @property
    def link(self) -> str:
        """What the class opens."""
        fields = urlencode({"lang": self.language} | self.start)
        return f"http://{self.address or local_address()}:{self.port}/?{fields}"

    def environment(self) -> dict[str, str]:
        """The variables of the server."""
        host = self.address or local_address()
        return {
            OFFERED: ",".join(self.models),
            PAGES: ",".join(self.pages),
            LINK: self.link,
            "ENGRAM_LANGUAGE": self.language,
            "ENGRAM_PUBLIC": "1",
            "HF_HUB_OFFLINE": "1",
            "ENGRAM_DEADLINE": str(self.limits.seconds),
            "ENGRAM_SESSIONS": str(self.limits.sessions),
            "ENGRAM_SESSIONS_EACH": str(self.limits.sessions),  # a school often has one address for all
            "ENGRAM_ALLOWED_HOSTS": host,
            "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
            "STREAMLIT_SERVER_PORT": str(self.port),
            **({"STREAMLIT_THEME_BASE_FONT_SIZE": LARGE_TEXT} if self.large_text else {}),
        }


def read_classroom(path: Path) -> Classroom:
    """The class of a file.

    Raises:
        ValueError: in one sentence, naming the setting that is wrong.
    """
    try:
        return Classroom.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give the path of a classroom.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML ({error}); see docs/classroom.md") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {where} is {first['input']!r}: {first['msg']}; see docs/classroom.md") from None


def local_address() -> str:
    """This computer's number in its network; 127.0.0.1 without a network.  Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation: only the route is looked up
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
