"""The page as `python -m app` serves it, with a door beside it for the tests alone.

    python -m tests.browser.serve DOOR_PORT

The door answers on its own port: `/hold` lets no job go on until `/release`, so that a test can look at a running job
however fast the machine is; `/runs` counts the jobs that were really run, by label; `/weights` hashes the weights in
this process anew.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from app.__main__ import main
from app.server import cache
from app.server.job import Job, Lane, Work
from app.server.jobs import Runner
from facts.watch import Watch

going_on = threading.Event()
going_on.set()
runs: Counter[str] = Counter()
submit = Runner.submit


def watched(self: Runner, key: str, label: str, work: Work, asker: str = "", lane: Lane = "long") -> Job:
    """`Runner.submit`, with the work counted and held at every step."""

    def held(watch: Watch) -> object:
        from experiments import guard  # imports torch, which the page does without until its first job

        runs[label] += 1
        guard.UNLIKELY = 0.0  # a random model is not taught an answer in the few steps these tests take

        def tell(done: int, of: int, stage: str) -> None:
            watch.tell(done, of, stage)
            while of and not going_on.is_set() and not watch.cancelled():
                time.sleep(0.02)

        return work(replace(watch, tell=tell))

    return submit(self, key, label, held, asker, lane)


class Door(BaseHTTPRequestHandler):
    """Requests of the tests."""

    def do_GET(self) -> None:
        answer: object = None
        if self.path == "/hold":
            going_on.clear()
        elif self.path == "/release":
            going_on.set()
        elif self.path == "/runs":
            answer = runs
        elif self.path == "/weights":
            model = cache.shelf().get("reference")
            answer = {"revision": model.revision, "digest": model.weights_digest()}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Runner.submit = watched  # type: ignore[method-assign]
    door = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Door)
    threading.Thread(target=door.serve_forever, daemon=True).start()
    main([])
