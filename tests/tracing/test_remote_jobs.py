"""Jobs on a host that serves a model as NDIF does, and what becomes of its faults."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nnsight
import numpy as np
import pytest
import torch
from nnsight.intervention.backends.local import LocalSimulationBackend

from editing import apply_edits
from facts import Fact
from models import LanguageModel
from models.remote import jobs
from models.remote.driver import Remote
from models.remote.jobs import JobBackend, RemoteJobError, fetch
from models.remote.record import JobRecord
from tests.editing.made import low_rank, made
from tests.tiny import tiny_model
from tests.tracing.agreement import LEVEL
from tests.tracing.loopback import Host
from tests.tracing.test_remote import elsewhere
from tracing import TraceConfig, trace_all

FACT = Fact.from_prompt("The Space Needle is located in the city of", "Space Needle", "Seattle")
CONFIGS = [TraceConfig(samples=2, severed="mlp_out")]
CHILD = """
import sys
from pathlib import Path
import nnsight
from tests.tracing.test_remote_jobs import traced

nnsight.CONFIG.API.COMPRESS = False
nnsight.TransformersModel.to_model_key = lambda self: "tiny"
traced(sys.argv[1], jobs=Path(sys.argv[2]))
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(jobs, "_PAUSE_SECONDS", 0.2)
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


def edited() -> LanguageModel:
    model = tiny_model("gpt2")
    return apply_edits(model, [made(model, low_rank(model, 1, 0)), made(model, low_rank(model, 1, 1))])


def traced(host: str, deadline: float = 60.0, *, model: LanguageModel | None = None, jobs: Path | None = None) -> Any:
    driver = Remote(host, deadline=deadline, jobs=jobs)
    (trace,) = trace_all(model or tiny_model("gpt2"), FACT, CONFIGS, level=LEVEL, driver=driver)
    return trace


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.restored, other.restored)
    np.testing.assert_array_equal(one.corrupted, other.corrupted)


@pytest.mark.parametrize("make", [lambda: tiny_model("gpt2"), edited], ids=["plain", "edited"])
def test_a_trace_on_the_host_has_the_bits_of_nnsights_own_simulation(
    host: Host, monkeypatch: pytest.MonkeyPatch, make: Callable[[], LanguageModel]
) -> None:
    host.busy, host.broken = 2, 1
    weights = {name: weight.clone() for name, weight in host.model._module.named_parameters()}
    there = traced(host.address, model=make())
    monkeypatch.setattr(LocalSimulationBackend, "__call__", elsewhere)
    assert_same(there, traced("local", model=make()))
    assert len(host.results) > 1
    assert all(torch.equal(weight, weights[name]) for name, weight in host.model._module.named_parameters())


def test_a_job_is_fetched_again_by_its_id(host: Host) -> None:
    traced(host.address)
    again = fetch("job-0", host.address)
    assert set(again) == {"logits", "noted"}
    assert torch.equal(again["logits"], torch.load(io.BytesIO(host.results["job-0"]))["logits"])


def test_a_killed_process_leaves_jobs_that_the_next_one_fetches(host: Host, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.txt"
    host.running.add("job-1")
    child = subprocess.Popen([sys.executable, "-c", CHILD, host.address, str(jobs)])
    while "job-1" not in host.polled:
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    host.running.clear()
    there = traced(host.address, jobs=jobs)
    sent = len(host.results)
    assert len(set(jobs.read_text().splitlines())) == sent
    assert_same(there, traced(host.address, jobs=jobs))
    assert len(host.results) == sent
    assert_same(there, traced(host.address))
    assert len(host.results) == 2 * sent, "the two processes have sent each job once"
    changed = traced(host.address, model=edited(), jobs=jobs)
    assert len(host.results) == 3 * sent, "another model is another question"
    assert_same(changed, traced(host.address, model=edited()))


def test_a_job_that_failed_is_sent_again(host: Host, tmp_path: Path) -> None:
    host.error = "CUDA out of memory"
    with pytest.raises(RemoteJobError, match="CUDA out of memory"):
        traced(host.address, jobs=tmp_path / "jobs.txt")
    host.error = ""
    assert_same(traced(host.address, jobs=tmp_path / "jobs.txt"), traced(host.address))


def test_another_file_is_no_record_of_jobs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk\n")
    with pytest.raises(ValueError, match=r"'notes.txt' is not a record of remote jobs"):
        JobRecord(tmp_path / "notes.txt")


def fails(host: Host) -> None:
    host.error = "CUDA out of memory"


def freezes(host: Host) -> None:
    host.silent.set()


def stays_busy(host: Host) -> None:
    host.busy = 10**9


def refuses(host: Host) -> None:
    host.refusal = 401, b'{"detail": "unknown key"}'


def babbles(host: Host) -> None:
    host.refusal = 200, b"<html>"


def breaks(host: Host) -> None:
    host.broken = 10**9


def drips(host: Host) -> None:
    host.drips = True


def cuts(host: Host) -> None:
    run = host.run
    host.run = lambda blob: run(blob)[:1000]  # type: ignore[method-assign]


def forgets(host: Host) -> None:
    host.run = lambda blob: host.saved({"logits": torch.zeros(1)})  # type: ignore[method-assign]


def serves_another(host: Host) -> None:
    host.run = lambda blob: host.saved({"logits": torch.zeros(3, 1, 7), "noted": {}})  # type: ignore[method-assign]


def loses_states(host: Host) -> None:
    shape = 3, 1, host.model._module.config.vocab_size
    host.run = lambda blob: host.saved({"logits": torch.zeros(shape), "noted": {}})  # type: ignore[method-assign]


def sends_away(host: Host) -> None:
    host.kept_at = "http://example.org"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (fails, r"could not run job job-0: CUDA out of memory"),
        (freezes, r"connection to http://127.0.0.1:\d+ broke while the job was sent"),
        (stays_busy, r"gave no result within 2 s \(all replicas busy\); nothing was sent"),
        (refuses, r"127.0.0.1:\d+ refused the request: unknown key"),
        (babbles, r"does not answer as nnsight's hosts do: '<html>'"),
        (breaks, r"gave no result within 2 s; job job-0 may still run; fetch it later by this id"),
        (drips, r"gave no result within 2 s; job job-0 may still run"),
        (cuts, r"job job-0: the host sent something other than tensors"),
        (forgets, r"job job-0: the host did not send logits and noted"),
        (serves_another, r"sent logits of shape \[3, 1, 7\] for 3 rows and \d+ tokens; it serves another model"),
        (loses_states, r"the host did not send the \d+ states it was asked for"),
        (sends_away, r"job job-0: the host keeps the result at an address without https; not read"),
    ],
)
def test_a_fault_is_told_in_words_before_the_deadline(host: Host, fault: Callable[[Host], None], words: str) -> None:
    fault(host)
    with pytest.raises(RemoteJobError, match=words):
        traced(host.address, deadline=2.0)


def test_a_job_that_is_late_can_be_fetched_later(host: Host) -> None:
    traced(host.address)
    host.silent.set()
    with pytest.raises(RemoteJobError, match="gave no result within 1 s; job job-0 may still run; fetch it later"):
        fetch("job-0", host.address, deadline=0.6)
    host.silent.clear()
    assert "logits" in fetch("job-0", host.address)


def test_the_key_goes_to_the_host_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "secret")
    host.kept_at = host.address.replace("127.0.0.1", "localhost")
    traced(host.address)
    assert host.keys == {"request": "secret", "response": "secret", "result": None}


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
    host.results["evil"] = host.saved({"logits": Bomb(tmp_path / "ran"), "noted": {}})
    with pytest.raises(RemoteJobError, match="job evil: the host sent something other than tensors"):
        fetch("evil", host.address, deadline=5)
    assert not (tmp_path / "ran").exists()
