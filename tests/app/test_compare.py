"""The tabs that look at the same prompt again, without a browser."""

from collections.abc import Callable

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.server import cache
from app.session.asks import KnockoutAsk, LensAsk, PatchAsk
from app.workbench.compare import knockout, lens, two_prompts
from facts import Fact
from tracing.lenses.knockout import attention_knockout
from tracing.lenses.logit import logit_lens

NewPage = Callable[..., AppTest]
PROMPT, SUBJECT = "The Space Needle is located in the city of", "Space Needle"


def opened(page: AppTest, tab: str) -> AppTest:
    page.session_state["below"] = tab
    page.run()
    assert not page.exception
    return page


def answered(page: AppTest, kind: str) -> AppTest:
    """Press the tab's button; the answer is there when the script ends."""
    page.button(key=f"start_{kind}").click().run()
    assert not page.exception
    assert [error.value for error in page.error if "does not say" not in error.value] == []
    return page


def captions(page: AppTest) -> str:
    return " ".join(caption.value for caption in page.caption).replace("\\", "")


@pytest.fixture
def edited(new_page: NewPage) -> AppTest:
    """A page with a fact rewritten."""
    page = new_page(run="1", samples="2", layer="2")
    page.number_input(key="r-rome_steps").set_value(2)
    page.number_input(key="r-rome_moment_tokens").set_value(500)
    page.button(key="apply_edit").click().run()
    assert not page.exception
    return page


def test_lens_knockout_and_two_prompts_say_what_the_library_says(new_page: NewPage) -> None:
    page = new_page(samples="2")
    model = cache.shelf().get("reference")
    fact = Fact.from_prompt(PROMPT, SUBJECT)
    answered(opened(page, "Lens"), LensAsk.kind)
    read = logit_lens(model, Fact.from_prompt(PROMPT, SUBJECT, "Seattle"), target="Rome")
    shown = cache.runner().get(page.session_state["session"].asked[LensAsk.kind].key)
    assert shown is not None
    assert shown.result[0].log_prob.shape == read.log_prob.shape
    assert lens.told(shown.result) in captions(page)
    answered(opened(page, "Knockout"), KnockoutAsk.kind)
    assert knockout.told(attention_knockout(model, fact, window=1)) in captions(page)
    opened(page, "Two prompts").text_input(key="other_prompt").set_value("The Eiffel Tower is in the city of").run()
    answered(page, PatchAsk.kind)
    job = cache.runner().get(page.session_state["session"].asked[PatchAsk.kind].key)
    assert job is not None
    assert two_prompts.told(job.result) in captions(page)
    assert job.result.pairs[-1] == (len(job.result.source_tokens) - 1, len(job.result.base_tokens) - 1)
    page.text_input(key="prompt").set_value("They say the Space Needle is in").run()
    assert "The inputs have changed since this was computed" in " ".join(warning.value for warning in page.warning)


def test_difference_and_damage_of_an_edit(edited: AppTest) -> None:
    opened(edited, "Difference")
    answered(edited, "difference")
    assert len(edited.get("plotly_chart")) == 5  # the trace, the loss, before, after, the difference
    ask = edited.session_state["session"].asked["difference"]
    found = cache.runner().get(ask.key)
    assert found is not None
    (traced,) = cache.runner().get(edited.session_state["session"].trace_ask.key).result.results  # type: ignore[union-attr]
    assert np.array_equal(found.result.before[0].indirect_effect, traced.indirect_effect)
    assert found.result.after[0].answer.strip() == "Rome"
    answered(opened(edited, "What will it break?"), "breaks")
    table = next(frame.value for frame in edited.dataframe if "foretold" in frame.value.columns)
    assert len(table) == 10
    assert list(table["foretold"].astype(float)) == sorted(table["foretold"].astype(float), reverse=True)
    assert "measured, nats" in table.columns  # the edit is active
    edited.button(key="undo").click().run()
    table = next(frame.value for frame in edited.dataframe if "foretold" in frame.value.columns)
    assert "measured, nats" not in table.columns
    opened(edited, "Difference")
    assert edited.button(key="start_difference").disabled


def test_probes_that_were_typed_come_back_with_their_fact(new_page: NewPage) -> None:
    page = new_page(samples="2")
    mine = page.session_state["session"]
    derived = list(mine.probe_rows)
    (key,) = mine.probes_typed
    # a browser test cannot type into the canvas of the editor: the rows as the editor would leave them
    mine.probes_typed[key] = [
        *([kind, prompt, new] for kind, prompt, new in derived),
        ["alias", "The Needle is in", ""],
    ]
    page.text_input(key="new").set_value("Oslo").run()
    assert {row[2] for row in mine.probe_rows if row[0] == "paraphrase"} == {"Oslo"}
    page.text_input(key="new").set_value("Rome").run()
    assert list(page.session_state["session"].probe_rows) == derived
    assert "1 incomplete" in captions(page)


def test_the_session_as_a_script(edited: AppTest) -> None:
    opened(edited, "As code")
    (text,) = (block.value for block in edited.code if "engram.edit" in block.value)
    assert "engram.locate" in text
    assert "'r-rome'" in text
    compile(text, "script", "exec")


def test_text_before_and_after_is_marked_word_by_word() -> None:
    from app.workbench.evaluate import marked

    before, after = marked(" Paris, in <France>.", " Rome, in <France>.")
    assert before == " <mark>Paris,</mark> in &lt;France&gt;."
    assert after == " <mark>Rome,</mark> in &lt;France&gt;."
    assert marked("same", "same") == ("same", "same")
