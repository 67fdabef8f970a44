"""Jobs on a host that serves models through nnsight (NDIF): a deadline, errors in words, and results fetched again.

nnsight waits without an end where a host stops answering, and unpickles whatever it sends.  Here every request has a
time-out, a job that is late can be fetched by its id from any process, and of a result only tensors are read.
"""

from __future__ import annotations

import io
import json
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch
from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel
from pydantic import ValidationError

DEADLINE_SECONDS = 600.0
LOCAL = ("127.0.0.1", "::1", "localhost")
_REQUEST_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
_BUSY = (429, 502, 503, 504)
"""HTTP answers after which the same request is tried again."""


class RemoteJobError(ConnectionError):
    """A remote job has no result; the message says why, and how to fetch it later where that is possible."""


class JobBackend(RemoteBackend):  # type: ignore[misc]  # nnsight is not typed
    """Sends a traced block as a job and waits for it, until a deadline.

    Args:
        model_key: what the host calls the model; empty for a job that is only fetched.
        host: address; https, or http on this computer.  It must come from who runs the program, never from a visitor.
        deadline: seconds to wait for a result.
        job_id: of a job that was sent earlier.

    Raises:
        ValueError: if the host's address is neither.
    """

    def __init__(
        self, model_key: str, host: str | None = None, deadline: float = DEADLINE_SECONDS, job_id: str | None = None
    ) -> None:
        super().__init__(model_key, host, blocking=False, job_id=job_id)
        parts = urlsplit(self.host)
        if parts.scheme != "https" and parts.hostname not in LOCAL:
            raise ValueError(f"the host {self.host!r} is not reached by https; give its address as https://...")
        self._deadline = deadline
        self._until = time.monotonic() + deadline

    def __call__(self, tracer: Any = None) -> dict[str, Any]:
        """Send the block, wait, and hand its saved values to the block's variables."""
        self._until = time.monotonic() + self._deadline
        self.submit(tracer)
        result = self.wait()
        self._push(result, tracer)
        return result

    def wait(self) -> dict[str, Any]:
        """The saved values of the job, once it is done.

        Raises:
            RemoteJobError: if it failed on the host, the host does not answer, or it is late.
        """
        while True:
            try:
                found: dict[str, Any] | None = self.poll()
            except RemoteError as error:
                raise RemoteJobError(f"the host could not run job {self.job_id}: {error}") from error
            except (ValidationError, json.JSONDecodeError):
                found = None  # half an answer: ask again
            if found is not None:
                return found
            self._pause()

    def poll(self, tracer: Any = None) -> dict[str, Any] | None:
        """The saved values, or None while the job runs."""
        answer = self._ask("GET", f"{self.host}/response/{self.job_id}")
        if answer.status_code == 404:  # nothing is recorded yet
            return None
        response = ResponseModel.model_validate_json(answer.text)
        self.status = response.status
        result: dict[str, Any] | None = self.handle(response)
        return result

    def download_result(self, url: Any) -> dict[str, Any] | None:
        """The values from the address that the host gave."""
        return self.finalize(url if isinstance(url, bytes) else self._ask("GET", str(url)).content) if url else None

    def finalize(self, content: bytes) -> dict[str, Any]:
        """Read tensors and plain values; anything else that the host sent is refused, since reading it could run code.

        Raises:
            RemoteJobError: if it holds something else.
        """
        if self.compress:
            import zstandard

            content = zstandard.ZstdDecompressor().decompress(content)
        try:
            values: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises what the unpickler raises
            raise RemoteJobError(f"job {self.job_id}: the host sent something other than tensors") from error
        return values

    def _post(self, request: RequestModel, blob: bytes) -> ResponseModel:
        answer = self._ask(
            "POST",
            f"{self.host}/request",
            data={"data": request.metadata()},
            files={"blob": ("request", blob, "application/octet-stream")},
        )
        try:
            return ResponseModel.model_validate_json(answer.text)
        except ValidationError as error:
            raise RemoteJobError(f"{self.host} does not answer as nnsight's hosts do: {answer.text[:80]!r}") from error

    def _ask(self, method: str, address: str, **content: Any) -> httpx.Response:
        """One request, tried again while the host is busy or the connection breaks."""
        headers = {"ndif-api-key": self.api_key} if self.api_key else {}
        while True:
            seconds = min(_REQUEST_SECONDS, max(0.1, self._until - time.monotonic()))
            try:
                with httpx.Client(timeout=seconds) as client:
                    answer = client.request(method, address, headers=headers, **content)
            except httpx.ConnectError as error:
                if self.job_id is None:
                    raise RemoteJobError(f"the host {self.host} cannot be reached; check its address") from error
            except httpx.HTTPError:
                if self.job_id is None:  # sent twice, it would run twice
                    raise RemoteJobError(f"the connection to {self.host} broke while the job was sent") from None
            else:
                if answer.status_code < 400 or answer.status_code == 404:
                    return answer
                if answer.status_code not in _BUSY:
                    raise RemoteJobError(f"{self.host} refused the request: {_detail(answer)}")
            self._pause()

    def _pause(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            job = f"job {self.job_id} may still run; fetch it later by this id" if self.job_id else "nothing was sent"
            raise RemoteJobError(f"{self.host} gave no result within {self._deadline:.0f} s; {job}")
        time.sleep(min(_PAUSE_SECONDS, left))


def fetch(job_id: str, host: str | None = None, deadline: float = DEADLINE_SECONDS) -> dict[str, Any]:
    """The saved values of a job that any process sent earlier: "logits", and what visits "noted".

    Raises:
        RemoteJobError: as `JobBackend.wait`.
    """
    return JobBackend("", host, deadline, job_id).wait()


def _detail(answer: httpx.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return f"HTTP {answer.status_code}"
    return str(body.get("detail", answer.status_code) if isinstance(body, dict) else answer.status_code)[:200]
