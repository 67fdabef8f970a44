"""`python -m benchmarks.load --sessions 30`: many readers on one server, each answer compared with a solo run.

Two servers of the bundled model are started on loopback.  One is asked every question alone: that is what is right, and
how long an answer takes without others.  On the other each session opens the page in its own tab by a websocket, traces
a fact and edits it in its own way, all at the same time; then it asks for maps that others have asked for before, with
a pause between two questions, as a class that follows its teacher does.  Last, `--visits` tabs open the page and close
it again.

    answers, wrong, errors      maps and edits seen, those that differ from the solo run, and failures new here
    p50_s, p95_s                seconds until the first map of a session, all sessions asking at once
    cached_p95_s                seconds until a map that the server has computed before
    p95_ratio                   p95_s / (maps up to that one x solo seconds)
    ratio_p95, worst_ratio      of each map's own ratio: the 95th percentile and the largest
    mb_per_session              growth of the server's memory while all are connected, by session
    mb_left, files_left         growth of memory and open files after all have gone and the visits are over
    mb_of_visits                the part of it that came with the visits

`--greedy` adds a session that asks for one new map after the other; compare its `p95_s` with that of a run without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load.tab import Tab
from benchmarks.parts.served import served
from facts.atlas import load_atlas

SAMPLES = 3
GREEDY = 300
"""Maps that the greedy session asks for at most."""


@dataclass(frozen=True)
class Question:
    """One fact to trace and to rewrite."""

    prompt: str
    subject: str
    new: str

    @property
    def link(self) -> dict[str, str]:
        """The parameters of the page's link."""
        return {
            "run": "1", "samples": str(SAMPLES), "prompt": self.prompt, "subject": self.subject, "new": self.new,
        }  # fmt: skip


@dataclass(frozen=True)
class Alone:
    """What one tab saw of a question."""

    map: str
    seconds: float
    """Until the map stood."""
    edit: str
    said: frozenset[str]
    """Errors that the page rightly shows, as of an edit that the model does not take."""


@dataclass
class Seen:
    """What the sessions saw."""

    first: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    answers: int = 0
    wrong: int = 0
    errors: list[str] = field(default_factory=list)

    def compare(self, answer: str, solo: str) -> None:
        """Count one answer."""
        self.answers += 1
        self.wrong += answer != solo


def questions(count: int) -> list[Question]:
    """Facts of the atlas with another answer of the same relation, drawn with a seed."""
    atlas = load_atlas()
    rows = random.Random(0).sample([row for row in atlas.facts if not row.contains_answer], count)
    return [Question(atlas.as_fact(row).prompt, row.subject, atlas.counterfactual(row)) for row in rows]


def settings(folder: Path, sessions: int) -> dict[str, str]:
    """Environment of a server for so many sessions of one computer."""
    return {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),  # as where the page is public
        "ENGRAM_MODELS": "",
        "ENGRAM_RUNS": str(folder / "runs"),
        "ENGRAM_SESSIONS": str(sessions + 50),
        "ENGRAM_SESSIONS_EACH": str(sessions + 50),
        "ENGRAM_LOG": "json",
    }


def measured(address: str) -> tuple[float, int]:
    """(resident memory in MB, open files) of the server."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    numbers = dict(re.findall(r"^(process_\w+) (\S+)$", text, re.MULTILINE))
    return float(numbers["process_resident_memory_bytes"]) / 1e6, int(float(numbers["process_open_fds"]))


async def ask(address: str, question: Question) -> Alone:
    """Trace and edit in a tab of its own."""
    async with Tab(address, question.link) as tab:
        began = time.perf_counter()
        await tab.run()
        shown, seconds = tab.map(), time.perf_counter() - began
        await tab.run("apply_edit")
        return Alone(shown, seconds, tab.edit(), frozenset(tab.complaints()))


async def session(
    address: str, mine: Question, all_: list[Question], solo: dict[Question, Alone], seen: Seen,
    options: argparse.Namespace, together: asyncio.Barrier,
) -> None:  # fmt: skip
    """One reader: a map and an edit of its own, then maps that others have asked for."""
    draw = random.Random(mine.prompt)
    try:
        async with Tab(address, mine.link) as tab:
            await together.wait()
            began = time.perf_counter()
            await tab.run()
            seen.first.append(time.perf_counter() - began)
            seen.compare(tab.map(), solo[mine].map)
            await tab.run("apply_edit")
            seen.compare(tab.edit(), solo[mine].edit)
            await together.wait()
            for _ in range(options.rounds):
                await asyncio.sleep(draw.uniform(0, 2 * options.pause))
                other = draw.choice(all_)
                began = time.perf_counter()
                await tab.run("run_trace", prompt=other.prompt, subject=other.subject, new=other.new)
                seen.cached.append(time.perf_counter() - began)
                seen.compare(tab.map(), solo[other].map)
                seen.errors += [words for words in tab.complaints() if words not in solo[mine].said]
            await together.wait()
    except (OSError, ValueError, TimeoutError) as error:
        seen.errors.append(f"{type(error).__name__}: {error}")
        await together.abort()


async def greedy(address: str, asked: list[Question]) -> None:
    """One new map after the other, without a pause."""
    async with Tab(address, asked[0].link) as tab:
        await tab.run()
        for question in asked[1:]:
            await tab.run("run_trace", prompt=question.prompt, subject=question.subject)


async def visits(address: str, question: Question, count: int) -> None:
    """Open the page and close the tab again, so many times."""
    for _ in range(count):
        async with Tab(address, {"prompt": question.prompt, "subject": question.subject}) as tab:
            await tab.run()


async def load(
    address: str, solo: dict[Question, Alone], others: list[Question], options: argparse.Namespace
) -> dict[str, object]:
    """Everything that happens on the busy server, and its numbers."""
    asked, seen = list(solo), Seen()
    await visits(address, asked[0], 5)
    before = measured(address)
    together = asyncio.Barrier(options.sessions + 1)
    tasks = [asyncio.create_task(session(address, mine, asked, solo, seen, options, together)) for mine in asked]
    greed = asyncio.create_task(greedy(address, others)) if options.greedy else None
    full = before
    try:
        for _ in range(3):  # all are connected; all have edited; all have asked
            await together.wait()
            full = max(full, await asyncio.to_thread(measured, address))
    except asyncio.BrokenBarrierError:
        seen.errors.append("a session ended early")
    await asyncio.gather(*tasks, return_exceptions=True)
    if greed is not None:
        greed.cancel()
    between = measured(address)
    await visits(address, asked[0], options.visits)
    await asyncio.sleep(options.settle)
    after = measured(address)
    alone = statistics.median(one.seconds for one in solo.values())
    ordered = sorted(seen.first)
    ratios = [seconds / (alone * n) for n, seconds in enumerate(ordered, 1)]
    return {
        "sessions": options.sessions,
        "answers": seen.answers,
        "wrong": seen.wrong,
        "errors": len(seen.errors),
        "p50_s": _share(ordered, 0.5),
        "p95_s": _share(ordered, 0.95),
        "cached_p50_s": _share(sorted(seen.cached), 0.5),
        "cached_p95_s": _share(sorted(seen.cached), 0.95),
        "solo_s": round(alone, 3),
        "p95_ratio": _share(ratios, 0.95),
        "ratio_p95": _share(sorted(ratios), 0.95),
        "worst_ratio": round(max(ratios, default=0.0), 2),
        "mb_per_session": round((full[0] - before[0]) / options.sessions, 2),
        "mb_left": round(after[0] - before[0], 1),
        "mb_of_visits": round(after[0] - between[0], 1),
        "files_left": after[1] - before[1],
        "visits": options.visits,
        "first_errors": seen.errors[:5],
    }


def _share(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


async def alone(address: str, asked: list[Question]) -> dict[Question, Alone]:
    """Every question asked alone; the first is asked twice, since it loads the model."""
    await ask(address, asked[-1])
    return {question: await ask(address, question) for question in asked}


def main(argv: list[str] | None = None) -> int:
    """Print the numbers; 1 if an answer was wrong or failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sessions", type=int, default=30, help="tabs at the same time")
    parser.add_argument("--rounds", type=int, default=10, help="further maps that each session asks for")
    parser.add_argument("--pause", type=float, default=10.0, help="mean seconds between two of them")
    parser.add_argument("--visits", type=int, default=100, help="tabs opened and closed at the end")
    parser.add_argument("--settle", type=float, default=130.0, help="seconds for the server to forget closed tabs")
    parser.add_argument("--greedy", action="store_true", help="with a session that never pauses")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args(argv)
    asked = questions(options.sessions + GREEDY)
    asked, others = asked[: options.sessions], asked[options.sessions :]
    with tempfile.TemporaryDirectory() as folder:
        with served(Path(folder) / "alone.txt", **settings(Path(folder), 1)) as address:
            solo = asyncio.run(alone(address, asked))
        with served(Path(folder) / "load.txt", **settings(Path(folder), options.sessions)) as address:
            found = asyncio.run(load(address, solo, others, options))
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:>15}  {value}")
    return 1 if found["wrong"] or found["errors"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
