"""One import and one command for people, what a notebook shows, and a session as a script with the same numbers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engram
from app.as_code import script
from app.server import cache
from app.session.asks import EditAsk, ScoreAsk, TraceAsk
from app.workbench import work
from engram.__main__ import COMMANDS, main
from facts.watch import UNWATCHED
from models import LanguageModel
from tests.tracing.made import made_result
from tests.tracing.test_plots import made_average

ROOT = Path(__file__).parents[2]
PROMPT, SUBJECT = "The Space Needle is located in the city of", "Space Needle"


def test_the_names_people_need_come_with_one_import_that_waits_for_torch() -> None:
    for name in engram.__all__:
        assert getattr(engram, name) is getattr(import_module(engram.HOMES[name]), name)
    assert set(engram.__all__) == set(engram.HOMES)
    quick = "import engram, sys; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", quick], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lokate'"):
        _ = engram.lokate


def test_the_installed_command_is_the_modules_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["engram"]
    module, _, function = entry.partition(":")
    assert callable(getattr(import_module(module), function))
    from models.__main__ import main as models
    from tracing.__main__ import main as trace

    for ours, theirs, arguments in (
        ("trace", trace, [PROMPT, "--subject", SUBJECT, "--samples", "2"]),
        ("models", models, ["list"]),
    ):
        assert main([ours, *arguments]) == 0
        shown = capsys.readouterr()
        assert theirs(arguments) == 0
        assert capsys.readouterr() == shown
    assert main(["run", "status", "--out", str(tmp_path)]) == 2
    assert main(["run", "no-such-study", "--out", str(tmp_path)]) == 2
    assert "no-such-study" in capsys.readouterr().err
    assert main(["trase"]) == 2
    assert f"choose from {', '.join(COMMANDS)}" in capsys.readouterr().err


def test_results_show_themselves_with_a_figure_and_a_table(tiny: Callable[[str], LanguageModel]) -> None:
    model = tiny("gpt2")
    request = engram.request_for(model, PROMPT, SUBJECT, "Seattle", "Rome")
    edit = engram.edit(model, request, "r-rome", {"layer": 1, "steps": 3})
    traced = made_result(prompt="<b>The</b> Space Needle is")
    for result, words in (
        (traced, ["total effect", "0.7000", "data:image/png;base64,", "&lt;b&gt;The&lt;/b&gt;"]),
        (made_average(), ["average total effect", "0.6000", "data:image/png;base64,"]),
        (edit, ["Edit by r-rome", "Seattle → Rome", "<polyline", "in 3 steps", "layer"]),
    ):
        bundle = result._repr_mimebundle_()
        for word in words:
            assert word in bundle["text/html"]
        assert "<b>The" not in bundle["text/html"]
        assert "array(" not in bundle["text/plain"]


@pytest.mark.reference
def test_a_script_of_the_session_gives_the_pages_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    cache.shelf.clear()
    shared = ("reference", PROMPT, SUBJECT, "")
    trace = TraceAsk(*shared, ("state", "mlp"), noise=3.0, samples=3, window=2, seed=4)
    first = EditAsk(*shared, "Rome", "r-rome", (("layer", 2),))
    second = EditAsk(
        "reference", "Sony has its headquarters in", "Sony", "", "Paris", "ft-l", (("layer", 1),), (first.key,)
    )
    probes = (("paraphrase", "Sony is based in", "Paris"), ("neighborhood", "Honda has its headquarters in", "Tokyo"))
    located = work.trace(trace, UNWATCHED)
    for ask in (first, second):
        work.edit(ask, UNWATCHED)
    report = work.score(ScoreAsk("reference", second.key, (first.key, second.key), probes), None, UNWATCHED)

    names: dict[str, Any] = {}
    exec(compile(script(trace, [first, second], probes), "as_code.py", "exec"), names)

    assert f"largest {located.results[1].largest()}" in capsys.readouterr().out
    for ours, theirs in zip(names["located"].results, located.results, strict=True):
        np.testing.assert_array_equal(ours.restored, theirs.restored)
    ours, theirs = (
        [(score.name, score.before, score.value, score.ci) for score in each.scores if score.metric != "efficiency"]
        for each in (names["report"], report)
    )
    assert ours == theirs
    shown = report._repr_mimebundle_()["text/html"]
    assert all(f"<td style='text-align:left'>{name}</td>" in shown for name in ("Reliability", "Portability"))
    assert "<rect" in shown
    with pytest.raises(ValueError, match="nothing to write down yet"):
        script(None)
    cache.shelf.clear()
    cache.drawer.clear()
