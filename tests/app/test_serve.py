"""The server around the page: health, numbers, headers, a limit on sessions, and its end."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.__main__ import ROOT
from app.server import cache, health
from app.server.gate import Gate
from app.server.monitoring import JsonLines
from benchmarks.load.tab import Tab
from tests.app.test_launcher import free_port, wait_until_healthy

HANGING = """
import sys, time
import anyio.streams.tls, anyio._backends._asyncio  # nnsight, which a job imports, must come after
from app.__main__ import main
from app.server import cache
job = cache.runner().submit("trace-1", "Tracing", lambda watch: time.sleep(600))
while job.state == "queued":
    time.sleep(0.05)
main([])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server with a job that hangs."""
    port, folder = free_port(), tmp_path_factory.mktemp("server")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    environment |= {"STREAMLIT_SERVER_PORT": str(port), "STREAMLIT_SERVER_HEADLESS": "true"}
    environment |= {"STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": "1"}
    environment |= {"ENGRAM_RUNS": str(folder), "HOME": str(folder)}
    log = folder / "server.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            wait_until_healthy(port, process, log)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait(20)


def test_health_numbers_and_headers(server: tuple[str, subprocess.Popen[bytes]]) -> None:  # H14
    address, _ = server
    with urllib.request.urlopen(f"{address}/healthz", timeout=20) as answer:
        assert json.load(answer) == {"ok": True, "problems": []}
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with urllib.request.urlopen(f"{address}/readyz", timeout=20) as answer:
        assert json.load(answer) == {"ready": True}
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
        numbers = answer.read().decode()
    assert 'engram_jobs{lane="long",state="running"} 1.0' in numbers
    assert "engram_base_intact 1.0" in numbers
    assert "process_open_fds" in numbers


def test_closed_tabs_give_their_files_back(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    address, process = server
    files = Path(f"/proc/{process.pid}/fd")

    async def visit() -> None:
        async with Tab(address, {}) as tab:
            await tab.run()

    async def visits(count: int) -> None:
        await asyncio.gather(*(visit() for _ in range(count)))

    asyncio.run(visits(1))
    before = len(list(files.iterdir()))
    asyncio.run(visits(5))
    until = time.monotonic() + 20
    while (left := len(list(files.iterdir()))) > before and time.monotonic() < until:
        time.sleep(0.1)
    assert left <= before


def test_sigterm_ends_the_process_though_a_job_hangs(server: tuple[str, subprocess.Popen[bytes]]) -> None:  # H11
    _, process = server
    process.send_signal(signal.SIGTERM)
    process.wait(5)


def test_health_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGRAM_RUNS", str(tmp_path))
    assert health.problems() == []
    monkeypatch.setattr(health, "LEAST_DISK", 2**80)
    monkeypatch.setattr(cache.runner(), "given_up", 4)
    monkeypatch.setattr(cache.shelf(), "changed", lambda: ["gpt2"])
    disk, threads, weights = health.problems()
    assert disk.startswith("only ")
    assert threads == "4 threads hang"
    assert weights == "the weights of gpt2 have changed in memory"


async def page(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_text("welcome")
        await socket.receive()
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})


def test_sessions_beyond_the_limit_are_refused_before_streamlit_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_SESSIONS", "2")
    client = TestClient(Gate(page))
    with client.websocket_connect("/") as first, client.websocket_connect("/") as second:
        assert [first.receive_text(), second.receive_text()] == ["welcome", "welcome"]
        assert client.get("/").status_code == 503
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
            pass
        second.send_text("bye")
    with client.websocket_connect("/") as again:
        assert again.receive_text() == "welcome"
        again.send_text("bye")
    assert client.get("/").text == "page"


@pytest.mark.parametrize(
    ("path", "address", "forwarded", "status"),
    [
        ("/metrics", "10.0.0.9", "", 403),
        ("/_stcore/metrics", "10.0.0.9", "", 403),
        ("/healthz", "10.0.0.9", "", 200),
        ("/metrics", "127.0.0.1", "", 200),
        ("/metrics", "127.0.0.1", "10.0.0.9", 403),  # a proxy on this computer
        ("/metrics", "127.0.0.1", "127.0.0.1", 403),  # which passes on what a visitor wrote
    ],
)
def test_numbers_are_for_this_computer_alone(path: str, address: str, forwarded: str, status: int) -> None:
    answers = list[Message]()

    async def send(message: Message) -> None:
        answers.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": (address, 4000)}
    asyncio.run(Gate(page)(scope, receive, send))
    assert answers[0]["status"] == status


def test_the_log_holds_no_prompt() -> None:
    try:
        raise ValueError("the prompt 'my secret' is too long")
    except ValueError:
        record = logging.LogRecord("app", logging.ERROR, "", 1, "failure %s", ("12ab",), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert (line["event"], line["error"]) == ("failure 12ab", "ValueError")
    assert "secret" not in json.dumps(line)
