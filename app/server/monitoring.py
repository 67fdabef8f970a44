"""What the one who runs the server can see: numbers for Prometheus, and a log of JSON lines without any prompt.

A log line names the kind of job, how long it waited and ran, and how it ended.  Prompts, subjects and answers are in
none; of an error only its type and the lines of code are logged, since its words may quote a prompt.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from app.server.job import Job

logger = logging.getLogger(__name__)

_BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 900, 3600)
WAITS = Histogram("engram_queue_wait_seconds", "Seconds a job waited for its thread", ["lane"], buckets=_BUCKETS)
SECONDS = Histogram("engram_job_seconds", "Seconds a job ran", ["kind", "state"], buckets=_BUCKETS)
SESSIONS = Gauge("engram_sessions", "Connected sessions")
REFUSED = Counter("engram_sessions_refused_total", "Connections refused because there were too many")
LIVE = Gauge("engram_jobs", "Jobs that run or wait", ["lane", "state"])
REPLACED = Gauge("engram_threads_replaced", "Threads that did not stop and were replaced")
EDIT_BYTES = Gauge("engram_edits_bytes", "Memory of the computed edits that are kept")
INTACT = Gauge("engram_base_intact", "1 while no loaded model's weights have changed")
FREE_BYTES = Gauge("engram_disk_free_bytes", "Free space where experiments are written")


def job_ended(job: Job) -> None:
    """Count and log a job that has ended."""
    waited = max(0.0, job.started - job.asked)
    WAITS.labels(job.lane).observe(waited)
    SECONDS.labels(job.kind, job.state).observe(job.seconds)
    about = {"kind": job.kind, "state": job.state, "waited_s": round(waited, 3), "seconds": round(job.seconds, 3)}
    logger.info("job ended", extra={"about": about})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; of an exception only its type and the lines of code."""
        line = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(line, ensure_ascii=False)


def log_json() -> None:
    """Write every log record to standard error as JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.INFO)
    for name in list(logging.root.manager.loggerDict):
        for own in logging.getLogger(name).handlers:
            own.setFormatter(JsonLines())
