"""A host on loopback that serves a model as NDIF does: it runs each job when it comes.  Its faults are set by tests."""

from __future__ import annotations

import io
import json
import threading
import time
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import nnsight
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend
from nnsight.schema.request import RequestModel
from nnsight.tracing.tracer import dec, inc

from models import LanguageModel


class Host(ThreadingHTTPServer):
    """Serves one model."""

    daemon_threads = True

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.model = nnsight.TransformersModel(model.module, tokenizer=model.tokenizer, task="text-generation")
        self.results: dict[str, bytes] = {}
        self.keys: dict[str, str | None] = {}
        """Kind of request -> the API key that came with the last one."""
        self.polled: set[str] = set()
        """Jobs that were asked for."""
        self.busy = 0
        """Requests that are answered by 503 first."""
        self.refusal: tuple[int, bytes] | None = None
        """What every job that is sent gets in place of an answer."""
        self.broken = 0
        """Polls that are answered by half a message."""
        self.error = ""
        self.running: set[str] = set()
        """Jobs that are not done yet."""
        self.kept_at = ""
        """Address of the results; by default this host's."""
        self.drips = False
        """A result is sent byte by byte, with pauses."""
        self.silent = threading.Event()
        """No request is answered while it is set."""

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self, blob: bytes) -> bytes:
        """What a job saved."""
        hiding = LocalSimulationBackend(self.model)
        hidden = hiding._hide_local_modules()
        try:
            rebuilt = RequestModel.deserialize(blob, self.model._remoteable_persistent_objects(), compress=False)
            inc()
            rebuilt.execute(rebuilt.info.code)
        finally:
            dec()
            hiding._restore(hidden)
        return self.saved({name: rebuilt.info.frame.f_locals[name] for name in ("logits", "noted")})

    def saved(self, values: dict[str, Any]) -> bytes:
        """The bytes of saved values."""
        file = io.BytesIO()
        torch.save(values, file)
        return file.getvalue()


class Answer(BaseHTTPRequestHandler):
    """The three requests of a job."""

    server: Host

    def _say(self, status: int, body: bytes, *, drips: bool = False) -> None:
        while self.server.silent.is_set():
            time.sleep(0.02)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not drips:
            self.wfile.write(body)
            return
        try:
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        except OSError:  # nobody listens any more
            pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys["request"] = self.headers["ndif-api-key"]
        if self.server.busy:
            self.server.busy -= 1
            return self._say(503, b'{"detail": "all replicas busy"}')
        if self.server.refusal is not None:
            return self._say(*self.server.refusal)
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + body).get_payload()
        blob = next(part.get_payload(decode=True) for part in parts if part.get_filename())  # type: ignore[union-attr]
        name = f"job-{len(self.server.results)}"
        self.server.results[name] = b"" if self.server.error else self.server.run(blob)  # type: ignore[arg-type]
        return self._say(200, json.dumps({"id": name, "status": "RECEIVED"}).encode())

    def do_GET(self) -> None:
        kind, name = self.path.strip("/").split("/")
        self.server.keys[kind] = self.headers["ndif-api-key"]
        if name not in self.server.results:
            return self._say(404, b"")
        if kind == "result":
            return self._say(200, self.server.results[name], drips=self.server.drips)
        self.server.polled.add(name)
        if self.server.broken:
            self.server.broken -= 1
            return self._say(200, b'{"id": "job-0", "sta')
        answer = {"id": name, "status": "COMPLETED", "description": self.server.error}
        if self.server.error:
            answer["status"] = "ERROR"
        elif name in self.server.running:
            answer["status"] = "RUNNING"
        else:
            answer["data"] = f"{self.server.kept_at or self.server.address}/result/{name}"
        return self._say(200, json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
