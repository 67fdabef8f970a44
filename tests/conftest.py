"""Shared by all tests: one thread, no network, tiny models."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGUAGE"] = "en"  # of command lines

import pytest
import torch

from models import LanguageModel
from tests.tiny import tiny_model

torch.set_num_threads(1)  # for what is made while modules are imported and in fixtures that modules share


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Each test begins with one thread of torch's, whatever the one before chose: more may sum in another order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Fail any connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    yield
    patch.undo()


@pytest.fixture
def tiny() -> Callable[[str], LanguageModel]:
    """`tiny(family)`: the tiny random model of a family; shared, so never write to it."""
    return tiny_model
