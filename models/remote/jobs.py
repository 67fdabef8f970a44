"""Jobs on a host that serves models through nnsight (NDIF): a deadline, errors in words, and results fetched again.

nnsight waits without an end where a host stops answering, and unpickles whatever it sends.  Here every request ends by
the deadline, a job that is late can be fetched by its id from any process, and of a result only tensors are read.
"""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
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
SAVED = {"logits", "noted"}
"""What every block here saves (`models.remote.driver`)."""
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
        note: told the id of a job once it is sent, and "" if the host could not run it.

    Raises:
        ValueError: if the host's address is neither.
    """

    def __init__(
        self,
        model_key: str,
        host: str | None = None,
        deadline: float = DEADLINE_SECONDS,
        job_id: str | None = None,
        note: Callable[[str], None] = lambda job_id: None,
    ) -> None:
        super().__init__(model_key, host, blocking=False, job_id=job_id)
        if not _is_safe(self.host):
            raise ValueError(f"the host {self.host!r} is not reached by https; give its address as https://...")
        self._deadline, self._note = deadline, note
        self._until = time.monotonic() + deadline
        self._said = ""
        """What a busy host said last."""

    def __call__(self, tracer: Any = None) -> dict[str, Any]:
        """Send the block, unless it was sent earlier; wait, and hand its saved values to the block's variables."""
        self._until = time.monotonic() + self._deadline
        if self.job_id is None:
            self.submit(tracer)
            self._note(self.job_id or "")
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
                self._note("")
                raise RemoteJobError(f"the host could not run job {self.job_id}: {error}") from error
            except (ValidationError, json.JSONDecodeError):
                found = None  # half an answer: ask again
            if found is not None:
                return found
            self._pause()

    def poll(self, tracer: Any = None) -> dict[str, Any] | None:
        """The saved values, or None while the job runs."""
        status, body = self._ask("GET", f"{self.host}/response/{self.job_id}")
        if status == 404:  # nothing is recorded yet
            return None
        response = ResponseModel.model_validate_json(body)
        self.status = response.status
        result: dict[str, Any] | None = self.handle(response)
        return result

    def download_result(self, url: Any) -> dict[str, Any] | None:
        """The values from the address that the host gave, or those that it sent in place of one."""
        if not url:
            return None
        if isinstance(url, bytes):
            return self.finalize(url)
        if not _is_safe(str(url)):
            raise RemoteJobError(f"job {self.job_id}: the host keeps the result at an address without https; not read")
        status, body = self._ask("GET", str(url))
        if status == 404:
            raise RemoteJobError(f"job {self.job_id}: its result is gone from the host; send it again")
        return self.finalize(body)

    def finalize(self, content: bytes) -> dict[str, Any]:
        """Read tensors and plain values; anything else that the host sent is refused, since reading it could run code.

        Raises:
            RemoteJobError: if it holds something else.
        """
        try:
            if self.compress:
                import zstandard

                content = zstandard.ZstdDecompressor().decompress(content)
            values: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises what the unpickler raises
            raise RemoteJobError(f"job {self.job_id}: the host sent something other than tensors") from error
        if not isinstance(values, dict) or not values.keys() >= SAVED:
            raise RemoteJobError(f"job {self.job_id}: the host did not send {' and '.join(sorted(SAVED))}")
        return values

    def _post(self, request: RequestModel, blob: bytes) -> ResponseModel:
        _, body = self._ask(
            "POST",
            f"{self.host}/request",
            data={"data": request.metadata()},
            files={"blob": ("request", blob, "application/octet-stream")},
        )
        try:
            return ResponseModel.model_validate_json(body)
        except ValidationError as error:
            raise RemoteJobError(
                f"{self.host} does not answer as nnsight's hosts do: {body[:80].decode(errors='replace')!r}"
            ) from error

    def _ask(self, method: str, address: str, **content: Any) -> tuple[int, bytes]:
        """(status, body) of one request, made again while the host is busy or the connection breaks."""
        while True:
            try:
                status, body = self._once(method, address, content)
            except httpx.ConnectError as error:
                if self.job_id is None:
                    raise RemoteJobError(f"the host {self.host} cannot be reached; check its address") from error
            except httpx.HTTPError:
                if self.job_id is None:  # sent twice, it would run twice
                    raise RemoteJobError(f"the connection to {self.host} broke while the job was sent") from None
            else:
                if status < 400 or status == 404:
                    return status, body
                if status not in _BUSY:
                    raise RemoteJobError(f"{self.host} refused the request: {_detail(status, body)}")
                self._said = f" ({_detail(status, body)})"
            self._pause()

    def _once(self, method: str, address: str, content: dict[str, Any]) -> tuple[int, bytes]:
        """One request, over by the deadline also where the host sends a byte now and then.

        The key goes to the host alone, not to an address where it keeps a result.
        """
        headers = {"nnsight-version": version("nnsight"), "python-version": platform.python_version()}
        if self.api_key and address.startswith(f"{self.host}/"):
            headers["ndif-api-key"] = self.api_key
        seconds = min(_REQUEST_SECONDS, max(0.1, self._until - time.monotonic()))
        with (
            httpx.Client(timeout=seconds) as client,
            client.stream(method, address, headers=headers, **content) as answer,
        ):
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if time.monotonic() > self._until:
                    raise httpx.ReadTimeout("late")
            return answer.status_code, bytes(body)

    def _pause(self) -> None:
        if self._until - time.monotonic() < 2 * _PAUSE_SECONDS:  # too late for another request
            job = f"job {self.job_id} may still run; fetch it later by this id" if self.job_id else "nothing was sent"
            raise RemoteJobError(f"{self.host} gave no result within {self._deadline:.0f} s{self._said}; {job}")
        time.sleep(_PAUSE_SECONDS)


def fetch(job_id: str, host: str | None = None, deadline: float = DEADLINE_SECONDS) -> dict[str, Any]:
    """The saved values of a job that any process sent earlier: "logits", and what visits "noted".

    Raises:
        RemoteJobError: as `JobBackend.wait`.
    """
    return JobBackend("", host, deadline, job_id).wait()


def _is_safe(address: str) -> bool:
    """Whether nobody on the way can read or change what is sent."""
    parts = urlsplit(address)
    return parts.scheme == "https" or parts.hostname in LOCAL


def _detail(status: int, body: bytes) -> str:
    """What the host says of an error."""
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    return str(said.get("detail", f"HTTP {status}") if isinstance(said, dict) else f"HTTP {status}")[:200]
