"""A host on loopback that serves a model as NDIF does, and what becomes of its faults."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nnsight
import numpy as np
import pytest
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import dec, inc

from facts import Fact
from models import LanguageModel
from models.forwards import remote_jobs
from models.forwards.remote import Remote
from models.forwards.remote_jobs import JobBackend, RemoteJobError, fetch
from tests.tiny import tiny_model
from tests.tracing.agreement import LEVEL
from tests.tracing.test_remote import elsewhere
from tracing import TraceConfig, trace_all

FACT = Fact.from_prompt("The Space Needle is located in the city of", "Space Needle", "Seattle")
CONFIGS = [TraceConfig(samples=2, severed="mlp_out")]


class Host(ThreadingHTTPServer):
    """Runs each job when it comes; its faults are set by the tests."""

    daemon_threads = True

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.model = nnsight.TransformersModel(model.module, tokenizer=model.tokenizer, task="text-generation")
        self.results: dict[str, bytes] = {}
        self.busy = 0
        """Requests that are answered by 503 first."""
        self.broken = 0
        """Polls that are answered by half a message."""
        self.error = ""
        self.silent = threading.Event()
        """No request is answered while it is set."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self, blob: bytes) -> bytes:
        hiding = LocalSimulationBackend(self.model)
        hidden = hiding._hide_local_modules()
        try:
            rebuilt = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=False)
            inc()
            rebuilt.execute(rebuilt.info.code)
        finally:
            dec()
            hiding._restore(hidden)
        saved = io.BytesIO()
        torch.save({name: rebuilt.info.frame.f_locals[name] for name in ("logits", "noted")}, saved)
        return saved.getvalue()


class Answer(BaseHTTPRequestHandler):
    """The three requests of a job."""

    server: Host

    def _say(self, status: int, body: bytes) -> None:
        while self.server.silent.is_set():
            time.sleep(0.02)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.busy:
            self.server.busy -= 1
            return self._say(503, b'{"detail": "all replicas busy"}')
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + body).get_payload()
        blob = next(part.get_payload(decode=True) for part in parts if part.get_filename())  # type: ignore[union-attr]
        name = f"job-{len(self.server.results)}"
        self.server.results[name] = b"" if self.server.error else self.server.run(blob)  # type: ignore[arg-type]
        return self._say(200, json.dumps({"id": name, "status": "RECEIVED"}).encode())

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")
        if kind == "result":
            return self._say(200, self.server.results[name])
        if name not in self.server.results:
            return self._say(404, b"")
        if self.server.broken:
            self.server.broken -= 1
            return self._say(200, b'{"id": "job-0", "sta')
        if self.server.error:
            return self._say(
                200, json.dumps({"id": name, "status": "ERROR", "description": self.server.error}).encode()
            )
        done = {"id": name, "status": "COMPLETED", "data": f"{self.server.address}/result/{name}"}
        return self._say(200, json.dumps(done).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(remote_jobs, "_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(nnsight.CONFIG.API, "COMPRESS", False)
    monkeypatch.setattr(nnsight.TransformersModel, "to_model_key", lambda self: "tiny")
    served = Host(tiny_model("gpt2"))
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.silent.clear()
    served.shutdown()
    served.server_close()
    thread.join()


def traced(host: str, deadline: float = 60.0) -> Any:
    return trace_all(tiny_model("gpt2"), FACT, CONFIGS, level=LEVEL, driver=Remote(host, deadline=deadline))


def test_a_trace_on_the_host_has_the_bits_of_nnsights_own_simulation(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.busy, host.broken = 2, 1
    there = traced(host.address)
    monkeypatch.setattr(LocalSimulationBackend, "__call__", elsewhere)
    here = traced("local")
    np.testing.assert_array_equal(there[0].restored, here[0].restored)
    np.testing.assert_array_equal(there[0].corrupted, here[0].corrupted)
    assert len(host.results) > 1


def test_a_job_is_fetched_again_by_its_id(host: Host) -> None:
    traced(host.address)
    again = fetch("job-0", host.address)
    assert set(again) == {"logits", "noted"}
    assert torch.equal(again["logits"], torch.load(io.BytesIO(host.results["job-0"]))["logits"])


def fails(host: Host) -> None:
    host.error = "CUDA out of memory"


def freezes(host: Host) -> None:
    host.silent.set()


def stays_busy(host: Host) -> None:
    host.busy = 10**9


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails, r"could not run job job-0: CUDA out of memory"),
        (freezes, r"connection to http://127.0.0.1:\d+ broke while the job was sent"),
        (stays_busy, r"gave no result within 1 s; nothing was sent"),
    ],
)
def test_a_fault_is_told_in_words_before_the_deadline(host: Host, fault: Callable[[Host], None], words: str) -> None:
    fault(host)
    with pytest.raises(RemoteJobError, match=words):
        traced(host.address, deadline=1.0)


def test_a_job_that_is_late_can_be_fetched_later(host: Host) -> None:
    traced(host.address)
    host.silent.set()
    with pytest.raises(RemoteJobError, match="gave no result within 1 s; job job-0 may still run; fetch it later"):
        fetch("job-0", host.address, deadline=0.6)
    host.silent.clear()
    assert "logits" in fetch("job-0", host.address)


def test_a_host_that_is_not_there_is_named() -> None:
    with pytest.raises(RemoteJobError, match=r"the host http://127.0.0.1:9 cannot be reached"):
        JobBackend("tiny", "http://127.0.0.1:9", 5)._ask("GET", "http://127.0.0.1:9/response/1")


def test_a_host_is_reached_by_https_alone() -> None:
    with pytest.raises(ValueError, match=r"'http://example.org' is not reached by https"):
        JobBackend("tiny", "http://example.org")


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_nothing_that_a_host_sends_is_run(host: Host, tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"logits": Bomb(tmp_path / "ran")}, saved)
    host.results["evil"] = saved.getvalue()
    with pytest.raises(RemoteJobError, match="job evil: the host sent something other than tensors"):
        fetch("evil", host.address, deadline=5)
    assert not (tmp_path / "ran").exists()
