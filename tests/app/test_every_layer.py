"""The same edit at every layer, beside the trace."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import workflow
from app.every_layer import NEW_ANSWER, EveryLayer, edit_every_layer
from app.shared.plots import every_layer_figure
from app.workbench.compare.every_layer import summary
from app.workflow import Located
from facts.watch import Cancelled, Watch
from metrics.definitions import PROMPTED
from models import LanguageModel

NewPage = Callable[..., AppTest]
PROMPT, SUBJECT = "The Space Needle is located in the city of", "Space Needle"
EFFECT, REACHED = (0.1, 0.2, 0.3, 0.4), (0.2, 0.1, 0.4, 0.3)


def found(reached: tuple[float | None, ...] = REACHED) -> EveryLayer:
    scores: dict[str, tuple[float | None, ...]] = {NEW_ANSWER: reached, "reliability": (1.0, 0.0, 1.0, 1.0)}
    return EveryLayer("rome", (1, 2, 3, 4), EFFECT, scores | {"portability": (None,) * 4}, {})


def test_the_correlation_is_pearsons() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: covariance 3, variances 5 and 5.
    assert found().correlation(NEW_ANSWER) == (pytest.approx(3 / 5), 4)
    assert found((0.2, None, 0.4, 0.3)).correlation(NEW_ANSWER)[1] == 3
    assert math.isnan(found((0.5,) * 4).correlation(NEW_ANSWER)[0])
    assert found().correlation("portability")[1] == 0


def test_the_figure_is_told_in_words() -> None:
    assert "strongest at layer 4" in summary(found())
    assert "highest p(new answer) at layer 3" in summary(found())
    assert "n = 4 layers: r = 0.60" in summary(found())
    assert "no correlation" in summary(found((0.5,) * 4))


def test_the_figure_has_the_trace_and_every_measured_score() -> None:
    figure = every_layer_figure(found())
    names = [trace.name for trace in figure.data]
    assert names == [
        "trace: indirect effect",
        "edit: p(new answer)",
        "edit: reliability",
    ]
    assert tuple(figure.data[0].y) == EFFECT
    assert tuple(figure.data[1].y) == REACHED


def test_each_layer_is_what_an_edit_there_alone_gives(tiny: Callable[[str], LanguageModel]) -> None:
    model = tiny("gpt_neo")
    request = workflow.request_for(model, PROMPT, SUBJECT, "", "Paris")
    located = workflow.locate(model, request.fact, samples=2)
    located = Located(located.results, dict.fromkeys(located.silent, frozenset({2})), located.usual)
    config = {"steps": 2, "learning_rate": 0.01}
    seen: list[tuple[int, int]] = []
    got = edit_every_layer(
        model, request, located, "ft-m", config, watch=Watch(lambda done, total, stage: seen.append((done, total)))
    )
    assert got.layers == (0, 1, 3)  # the silent one is left out
    row = located.main.indirect_effect[located.main.peak()[0]]
    assert np.allclose(got.effect, row[[0, 1, 3]])
    _, report = workflow.run_edit(model, request, "ft-m", config | {"layer": 3})
    asked = next(row for row in report.rows if row.kind == "edit")
    assert asked.after is not None
    assert got.scores[NEW_ANSWER][2] == asked.after.p_answer
    assert got.scores["generalization"][2] == report.headline("generalization").value
    assert set(got.scores) == {NEW_ANSWER, *PROMPTED}
    assert seen
    assert all(total == 300 and done <= 300 for done, total in seen)
    with pytest.raises(Cancelled):
        edit_every_layer(model, request, located, "ft-m", config, watch=Watch(cancelled=lambda: True))


def test_a_layer_that_cannot_be_edited_is_named_and_all_of_them_is_an_error(
    tiny: Callable[[str], LanguageModel],
) -> None:
    model = tiny("gpt_neo")
    request = workflow.request_for(model, PROMPT, SUBJECT, "", "Paris")
    located = workflow.locate(model, request.fact, samples=2)
    with pytest.raises(ValueError, match="steps"):
        edit_every_layer(model, request, located, "ft-m", {"steps": 0})


def test_the_page_shows_both_profiles(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    page.selectbox(key="method").set_value("ft-m").run()
    page.number_input(key="ft-m_steps").set_value(1).run()
    page.button(key="edit_layers").click().run()
    assert not page.exception
    assert any("n \\= 3 layers" in caption.value for caption in page.caption)  # the first of four is silent
    assert page.session_state["session"].ledger.edits() == ()  # nothing stays applied
    page.number_input(key="ft-m_steps").set_value(2).run()
    assert any("since these layers were edited" in warning.value for warning in page.warning)
    page.selectbox(key="method").set_value("lora").run()
    assert any("does not take a layer" in caption.value for caption in page.caption)
