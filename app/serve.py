"""The server: Streamlit's page with security headers, /healthz, /readyz and /metrics around it.

`python -m app` runs it; any ASGI server can: `uvicorn app.serve:app`.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

# Streamlit imports this file with app/ on the path, where our packages are not.
ROOT = str(Path(__file__).resolve().parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# nnsight gives every object a `save`, which anyio's classes refuse while they are made: they have to come first.
import anyio._backends._asyncio  # noqa: E402
import anyio.streams.tls  # noqa: E402, F401
import streamlit as st  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse, Response  # noqa: E402
from starlette.routing import Route  # noqa: E402

from app.server import cache, catalog, health, limits, monitoring, presence  # noqa: E402
from app.server.gate import Gate  # noqa: E402

END_SECONDS = 4.0
"""After SIGTERM the process ends within this time, whatever its threads do."""
GUARD_SECONDS = 600.0
"""Between two checks that the weights in memory are what was loaded."""


async def healthz(request: Request) -> Response:
    """200 while the server works, 503 with the reasons otherwise."""
    problems = await asyncio.to_thread(health.problems)
    return JSONResponse({"ok": not problems, "problems": problems}, 503 if problems else 200)


async def readyz(request: Request) -> Response:
    """200 once visitors can be let in: where the page is public, once the first model is loaded."""
    waiting = limits.public() and cache.shelf().loaded(next(iter(catalog.choices()))) is None
    return JSONResponse({"ready": not waiting}, 503 if waiting else 200)


async def metrics(request: Request) -> Response:
    """Numbers for Prometheus; only this computer may read them."""
    return Response(await asyncio.to_thread(health.metrics), media_type="text/plain; version=0.0.4")


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[None]:
    """Log as asked, load the first model before anybody asks for it, guard the weights, and end in time."""
    if os.environ.get("ENGRAM_LOG") == "json":
        monitoring.log_json()
    _end_in_time(signal.SIGTERM)
    name = next(iter(catalog.choices()))
    cache.runner().submit("warm-up", "Loading the model", lambda watch: cache.shelf().get(name), lane="quick")
    tasks = [asyncio.create_task(_guard_weights()), asyncio.create_task(_forget_closed())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(cache.runner().close, END_SECONDS - 2)


async def _guard_weights() -> None:
    while True:
        await asyncio.sleep(GUARD_SECONDS)
        if not cache.runner().live():
            await asyncio.to_thread(cache.shelf().check_weights)


async def _forget_closed() -> None:
    while True:
        await asyncio.sleep(st.get_option("server.disconnectedSessionTTL") / 10)
        presence.forget_closed()


def _end_in_time(number: int) -> None:
    """From that signal on the process has `END_SECONDS` left, beside what the ASGI server does with the signal."""
    if threading.current_thread() is not threading.main_thread():
        return
    before: Callable[..., Any] | int | None = signal.getsignal(number)

    def end(number: int, frame: Any) -> None:
        timer = threading.Timer(END_SECONDS, os._exit, (0,))
        timer.daemon = True
        timer.start()
        if callable(before):
            before(number, frame)

    signal.signal(number, end)


app = st.App(
    f"{ROOT}/app/main.py",
    routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)],
    middleware=[Middleware(Gate)],
    lifespan=lifespan,
)
