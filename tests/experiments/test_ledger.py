"""The ledger: leases, results that are written once, migrations, full disks and flipped bits."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.ledger import leases, owners, schema
from experiments.ledger.ledger import MOST_ATTEMPTS, Ledger
from experiments.ledger.payload import LARGEST, ResultTooLargeError, decode, encode
from experiments.ledger.records import damaged, entries, mend
from experiments.ledger.schema import LedgerDamagedError, LedgerError, LedgerFullError
from experiments.plan import Cell, Plan
from tests.experiments.made import IDENTITY, draws, ledger_of

with owners.owner() as ENDED:
    """Work of this process that is over."""
DEAD = f"{ENDED.split('|')[0]}|{2**22 + 1}|123"
"""A process of this machine that does not exist."""
ME = "this-host/12345678|1|1"
ELSEWHERE = "other-host/12345678|77|123"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Six cells, three groups of two."""
    cells = tuple(Cell("draw", {"seed": seed, "pair": seed // 2}) for seed in range(6))
    with ledger_of(tmp_path, Plan("draws", "", cells)) as made:
        with made.write() as connection:  # the kind groups nothing: put pairs together by hand
            connection.execute("UPDATE cells SET grp = (number - 1) / 2")
        yield made


def statuses(ledger: Ledger) -> list[str]:
    return [row[0] for row in ledger.read("SELECT status FROM cells ORDER BY number")]


# ---- payloads


def test_a_result_comes_back_as_it_was() -> None:
    result = {"b": 1.5, "a": ["é", None], "x": np.array([[1.0, np.nan]], dtype=np.float32), "n": np.arange(3)}
    found = decode(encode(result))
    assert {name: found[name] for name in "ab"} == {"b": 1.5, "a": ["é", None]}
    np.testing.assert_array_equal(found["x"], result["x"])
    assert found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["n"], [0, 1, 2])
    assert encode(result) == encode(dict(reversed(result.items())))
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(decode(encode({"x": fortran}))["x"], fortran)


def test_what_is_no_result_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="holds object; expected numbers"):
        encode({"x": np.array([{}])})
    with pytest.raises(ValueError, match="JSON takes finite numbers only"):
        encode({"x": float("nan")})
    monkeypatch.setattr("experiments.ledger.payload.LARGEST", 1000)
    with pytest.raises(ResultTooLargeError, match=r"takes 0\.0 MiB, and at most 0\.\d+ MiB of one"):
        encode({"x": np.zeros(1000)})
    assert LARGEST > 10**6


# ---- plans


def test_a_plan_is_added_once(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(4)) as ledger:
        assert ledger.add(draws(4), IDENTITY) == "draws"
        assert ledger.counts("draws") == {"todo": 4, "leased": 0, "done": 0, "failed": 0}
        with pytest.raises(LedgerError, match="has a run 'draws' with another plan"):
            ledger.add(draws(5), IDENTITY)
        with pytest.raises(LedgerError, match="has a run 'draws' with another plan, model or library"):
            ledger.add(draws(4), {**IDENTITY, "weights_sha256": "f" * 64})
        ledger.add(draws(6, "more"), IDENTITY)
        assert ledger.runs() == ["draws", "more"]
        assert ledger.read("SELECT count(*) FROM cells") == [(6,)], "shared cells are there once"
        assert ledger.only_run("more") == "more"
        with pytest.raises(LedgerError, match=r"there are 2 runs in .*; name one of draws, more"):
            ledger.only_run()
        with pytest.raises(LedgerError, match="there is no run 'moer'"):
            ledger.info("moer")


def test_a_result_counts_for_every_run_that_has_the_cell(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(2)) as ledger:
        ledger.add(draws(3, "more"), IDENTITY)
        (cell,) = ledger.lease("draws", ME, 0, 60)
        ledger.put(cell.key, encode({"x": 1}), {})
        assert ledger.counts("more")["done"] == 1
        assert [entry.status for entry in entries(ledger, "more")] == ["done", "todo", "todo"]


# ---- leases


def test_a_lease_is_one_group_and_nobody_elses(ledger: Ledger) -> None:
    first, second = ledger.lease("draws", ME, 0, 60), ledger.lease("draws", ELSEWHERE, 0, 60)
    assert [cell.spec["seed"] for cell in first] == [0, 1]
    assert [cell.spec["seed"] for cell in second] == [2, 3]
    assert len(ledger.lease("draws", ME, 1, 60)) == 2
    assert ledger.lease("draws", ME, 2, 60) == []


def test_two_threads_never_lease_the_same_cell(tmp_path: Path) -> None:
    ledger_of(tmp_path, draws(60)).close()
    taken: list[str] = []

    def take(name: str) -> None:
        with Ledger(tmp_path) as mine:
            while found := mine.lease("draws", f"{ELSEWHERE}|{name}", 0, 60):
                taken.extend(cell.key for cell in found)

    threads = [threading.Thread(target=take, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) == 60


def test_a_lease_that_runs_out_is_taken_over_and_only_the_cell_in_flight_was_interrupted(ledger: Ledger) -> None:
    ledger.lease("draws", ELSEWHERE, 0, -1)
    ledger.lease("draws", ME, 0, 60)
    assert statuses(ledger) == ["todo", "leased", "todo", "todo", "todo", "todo"]
    rows = ledger.read("SELECT interrupted, attempts FROM cells ORDER BY number")
    assert rows[0] == (1, 0)
    assert rows[1] == (0, 0)


def test_a_dead_process_loses_its_leases_at_once_and_a_live_one_does_not(ledger: Ledger) -> None:
    assert owners.is_dead(DEAD)
    assert owners.is_dead(ENDED)
    with owners.owner() as going_on:
        assert not owners.is_dead(going_on)
    assert not owners.is_dead(ELSEWHERE), "of another machine nothing is known"
    ledger.lease("draws", DEAD, 0, 3600)
    ledger.lease("draws", ELSEWHERE, 0, 3600)
    ledger.lease("draws", ME, 0, 3600)
    assert statuses(ledger) == ["todo", "leased", "leased", "leased", "todo", "todo"]


def test_beats_renew_leases(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.lease("draws", ELSEWHERE, 0, -1)
    ledger.beat("draws", ELSEWHERE, "inline", 60)
    assert [cell.spec["seed"] for cell in ledger.lease("draws", ME, 0, 60)] == [2, 3]
    ((owner, executor, ago),) = ledger.working("draws")
    assert (owner, executor) == (ELSEWHERE, "inline")
    assert 0 <= ago < 60
    now = time.time()
    with monkeypatch.context() as later:  # its machine was started anew, so it gives no more signs of life
        later.setattr(time, "time", lambda: now + 301)
        assert ledger.working("draws") == []
    ledger.release(ELSEWHERE)
    assert ledger.working("draws") == []
    assert statuses(ledger) == ["todo", "todo", "leased", "leased", "todo", "todo"]


def test_a_cell_that_always_loses_its_process_is_given_up_last(ledger: Ledger) -> None:
    for _ in range(leases.MOST_INTERRUPTIONS):
        with ledger.write() as connection:  # nothing else is left
            connection.execute("UPDATE cells SET status = 'done' WHERE number > 1")
        (cell,) = ledger.lease("draws", ELSEWHERE, 0, -1)
        assert cell.spec["seed"] == 0
    assert ledger.lease("draws", ME, 0, 60) == []
    assert ledger.counts("draws")["failed"] == 1
    assert ledger.read("SELECT reason FROM cells WHERE number = 1") == [("the process that ran it was gone 10 times",)]


def test_three_failures_are_the_end_and_failed_cells_come_last(ledger: Ledger) -> None:
    order = []
    while found := ledger.lease("draws", ME, 0, 60):
        for cell in found:
            seed = cell.spec["seed"]
            order.append(seed)
            if seed == 0:
                ledger.fail(cell.key, ME, f"failed for the {cell.attempts + 1}. time")
            else:
                ledger.put(cell.key, encode({"seed": seed}), {})
    assert order == [0, 1, 2, 3, 4, 5, 0, 0]
    assert MOST_ATTEMPTS == 3
    entry = next(entries(ledger, "draws"))
    assert (entry.status, entry.attempts, entry.reason) == ("failed", 3, "failed for the 3. time")
    assert ledger.retry("draws") == 1
    ((cell,), attempts) = (ledger.lease("draws", ME, 0, 60), 0)
    assert (cell.spec["seed"], cell.attempts) == (0, attempts)
    ledger.fail(cell.key, ME, "no use", final=True)
    assert ledger.counts("draws")["failed"] == 1


def test_only_the_holder_can_fail_a_cell(ledger: Ledger) -> None:
    cell = ledger.lease("draws", ME, 0, 60)[0]
    ledger.fail(cell.key, ELSEWHERE, "not mine")
    assert statuses(ledger)[0] == "leased"


# ---- results


def test_the_first_result_stands(ledger: Ledger) -> None:
    cell = ledger.lease("draws", ME, 0, 60)[0]
    assert ledger.put(cell.key, encode({"x": 1}), {"seconds": 0.5})
    assert not ledger.put(cell.key, encode({"x": 2}), {})
    ledger.fail(cell.key, ME, "too late")
    entry = next(entries(ledger, "draws"))
    assert (entry.status, entry.result, entry.notes) == ("done", {"x": 1}, {"seconds": 0.5})


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(40)) as ledger:
        cells = [cell for slot in range(40) for cell in ledger.lease("draws", ME, slot, 60)]
        kept: list[str] = []
        ((pages,),) = ledger.read("PRAGMA page_count")
        ledger.read(f"PRAGMA max_page_count = {pages + 20}")

        def put_all() -> None:
            for cell in cells:
                ledger.put(cell.key, encode({"x": np.zeros(1000)}), {})
                kept.append(cell.key)

        with pytest.raises(LedgerFullError, match="everything finished is kept, so free some space and resume"):
            put_all()
        assert 0 < len(kept) < 40
        assert [entry.key for entry in entries(ledger, "draws") if entry.status == "done"] == kept
        ledger.read("PRAGMA max_page_count = 1000000")
        for cell in cells[len(kept) :]:
            assert ledger.put(cell.key, encode({"x": np.zeros(1000)}), {})
        assert ledger.counts("draws")["done"] == 40


# ---- the file


def test_a_ledger_of_a_newer_version_or_of_something_else_is_refused(tmp_path: Path) -> None:
    ledger_of(tmp_path, draws(1)).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerError, match="has version 99, made by a newer Engram; this one reads up to 1"):
        Ledger(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no ledger"):
        Ledger(tmp_path / "none", create=False)
    foreign = tmp_path / "foreign" / "ledger.sqlite"
    foreign.parent.mkdir()
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(LedgerError, match="is a database of something else"):
        Ledger(foreign.parent)
    foreign.write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(LedgerDamagedError, match="is damaged or is no ledger"):
        Ledger(foreign.parent)


def test_an_older_ledger_is_brought_up_to_date_and_backed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger_of(tmp_path, draws(2)) as ledger:
        (cell,) = ledger.lease("draws", ME, 0, 60)
        ledger.put(cell.key, encode({"x": 7}), {})
    steps = ("ALTER TABLE cells ADD COLUMN colour TEXT", "ALTER TABLE cells ADD COLUMN smell TEXT")
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    with Ledger(tmp_path) as ledger:
        assert ledger.read("PRAGMA user_version") == [(3,)]
        assert ledger.read("SELECT colour, smell FROM cells LIMIT 1") == [(None, None)]
        assert next(entries(ledger, "draws")).result == {"x": 7}
    monkeypatch.setattr(schema, "MIGRATIONS", ())
    backup = tmp_path / "backup"
    backup.mkdir()
    (tmp_path / "ledger.v1.sqlite").rename(backup / "ledger.sqlite")
    with Ledger(backup) as ledger:
        assert next(entries(ledger, "draws")).result == {"x": 7}


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger_of(tmp_path, draws(1)).close()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", ("ALTER TABLE nowhere ADD COLUMN x",))
        with pytest.raises(LedgerError, match="no such table: nowhere"):
            Ledger(tmp_path)
    with Ledger(tmp_path) as ledger:
        assert ledger.counts("draws")["todo"] == 1


def test_network_file_systems_are_refused_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "file_system", lambda folder: "nfs4")
    with pytest.raises(LedgerError, match=r"on a network file system \(nfs4\)"):
        Ledger(tmp_path)
    with Ledger(tmp_path, network=True) as ledger:
        assert ledger.read("PRAGMA journal_mode") == [("delete",)]
    monkeypatch.undo()
    assert schema.file_system(Path("/proc")) in ("proc", "")
    with Ledger(tmp_path / "other") as ledger:
        assert ledger.read("PRAGMA journal_mode") == [("wal",)]
        assert ledger.read("PRAGMA synchronous") == [(2,)], "FULL"


# ---- damage


def finished(folder: Path, count: int) -> list[bytes]:
    """A ledger in which everything is done; the results."""
    with ledger_of(folder, draws(count)) as ledger:
        for slot in range(count):
            (cell,) = ledger.lease("draws", ME, slot, 60)
            values = np.random.default_rng(cell.spec["seed"]).normal(size=40)
            ledger.put(cell.key, encode({"values": values, "seed": cell.spec["seed"]}), {"seconds": 0.25})
        found = [entry.payload or b"" for entry in entries(ledger, "draws")]
    return found


def test_a_flipped_bit_in_a_result_is_found_named_and_not_returned(tmp_path: Path) -> None:
    results = finished(tmp_path, 200)
    file = tmp_path / "ledger.sqlite"
    whole = bytearray(file.read_bytes())
    source = random.Random(0)
    with Ledger(tmp_path) as ledger:
        keys = list(ledger.info("draws").keys)
    for payload in results:
        place = whole.index(payload)
        whole[place + source.randrange(len(payload))] ^= 1 << source.randrange(8)
    file.write_bytes(whole)
    with Ledger(tmp_path) as ledger:
        assert set(damaged(ledger, "draws")) == set(keys)
        with pytest.raises(LedgerDamagedError, match=f"cell {keys[0][:12]} of run 'draws' is damaged: its result"):
            next(entries(ledger, "draws"))
        assert len(mend(ledger, "draws")) == 200
        assert ledger.counts("draws") == {"todo": 200, "leased": 0, "done": 0, "failed": 0}


def test_no_flipped_bit_anywhere_changes_a_number_unseen(tmp_path: Path) -> None:
    results = finished(tmp_path / "whole", 20)
    bits = (tmp_path / "whole" / "ledger.sqlite").read_bytes()
    broken = tmp_path / "broken"
    broken.mkdir()
    source = random.Random(1)
    seen = 0
    for _ in range(200):
        flipped = bytearray(bits)
        flipped[source.randrange(len(bits))] ^= 1 << source.randrange(8)
        (broken / "ledger.sqlite").write_bytes(flipped)
        try:
            with Ledger(broken) as ledger:
                for entry in entries(ledger, "draws"):
                    assert entry.payload == results[entry.position]
                    assert entry.spec["seed"] == entry.position
        except LedgerError:
            seen += 1
        for rest in broken.glob("ledger.sqlite-*"):
            rest.unlink()
    assert seen > 50, "most of the file is results"


def test_a_damaged_setting_or_plan_is_found_too(tmp_path: Path) -> None:
    with ledger_of(tmp_path, draws(3)) as ledger:
        with ledger.write() as connection:
            connection.execute("""UPDATE cells SET spec = '{"seed":7}' WHERE number = 1""")
            connection.execute("DELETE FROM cells WHERE number = 2")
        assert sorted(damaged(ledger, "draws").values()) == [
            "its row is gone",
            "its settings are not what was planned",
        ]
        mend(ledger, "draws")
        ledger.add(draws(3), IDENTITY)
        assert damaged(ledger, "draws") == {}
        with ledger.write() as connection:
            connection.execute("DELETE FROM members WHERE position = 1")
        with pytest.raises(LedgerDamagedError, match="the plan of run 'draws' is damaged"):
            list(entries(ledger, "draws"))
