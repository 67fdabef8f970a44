"""Editing on the page, without a browser: tiles, what is marked after a change, undo."""

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from app.server import cache
from app.session.examples import DEFAULT
from app.shared import export
from metrics.definitions import METRICS as TABLE

NewPage = Callable[..., AppTest]
METRICS = [metric.label for metric in TABLE.values()]


def edited(new_page: NewPage, **params: str) -> AppTest:
    """A page with an edit applied."""
    page = new_page(run="1", samples="2", layer="2", **params)
    page.number_input(key="r-rome_steps").set_value(2)
    page.number_input(key="r-rome_moment_tokens").set_value(500)
    page.button(key="apply_edit").click().run()
    assert not page.exception
    return page


def tiles(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric if metric.label in METRICS}


def notices(page: AppTest) -> str:
    return " ".join(element.value for kind in (page.error, page.warning, page.info) for element in kind)


def test_apply_and_undo(new_page: NewPage) -> None:
    page = edited(new_page)
    assert list(tiles(page)) == METRICS
    # A random model knows no neighbours and no bridges, so nothing can be kept or followed there.
    assert [name for name in METRICS if tiles(page)[name] == "—"] == ["Locality", "Portability"]
    page.button(key="undo").click().run()
    assert set(tiles(page).values()) == {"—"}


def test_without_probes_a_metric_is_not_measured_and_never_zero(new_page: NewPage) -> None:  # check 16
    page = edited(new_page, prompt="Some say the Space Needle stands in")
    shown = tiles(page)
    assert [name for name in METRICS if shown[name] == "—"] == ["Generalization", "Locality", "Portability"]
    assert shown["Reliability"].endswith("%")
    assert sum("Not measured" in caption.value for caption in page.caption) == 3


def test_changes_after_an_edit_are_marked(new_page: NewPage) -> None:
    page = edited(new_page)
    page.text_input(key="new").set_value("London").run()
    assert "The inputs have changed since this edit" in notices(page)
    page.button(key="apply_edit").click().run()
    assert "The inputs have changed since this edit" not in notices(page)
    assert any("→ London" in caption.value for caption in page.caption)


def test_an_undone_edit_leaves_the_numbers_of_an_earlier_one_marked(new_page: NewPage) -> None:
    page = edited(new_page)
    page.text_input(key="prompt").set_value("Some say the Space Needle stands in").run()
    page.button(key="apply_edit").click().run()
    page.button(key="undo").click().run()
    assert "The inputs have changed since this edit" in notices(page)
    page.text_input(key="prompt").set_value(DEFAULT.prompt).run()
    assert "The inputs have changed since this edit" not in notices(page)


def test_a_method_without_a_layer_gives_no_advice_on_layers(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    page.selectbox(key="method").set_value("lora").run()
    assert any("the slider is not used" in caption.value for caption in page.caption)
    assert not any("in the map to edit there" in caption.value for caption in page.caption)


def test_advice_on_layers_is_of_the_fact_in_the_form(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    page.text_input(key="prompt").set_value("Some say the Space Needle stands in").run()
    assert any("Run a trace first" in caption.value for caption in page.caption)


def test_apply_takes_the_fields_as_they_stand_at_the_click(new_page: NewPage) -> None:
    """A field that is left by the very click on the button arrives together with it."""
    page = new_page(run="1", samples="2")
    page.selectbox(key="method").set_value("ft-m").run()
    page.text_input(key="new").set_value("Oslo")
    page.slider(key="layer").set_value(3)
    page.number_input(key="ft-m_steps").set_value(1)
    page.button(key="apply_edit").click().run()
    asked = page.session_state["session"].edit_ask
    assert (asked.new, dict(asked.config)) == ("Oslo", {"layer": 3, "steps": 1})
    assert {probe[2] for probe in page.session_state["session"].score_ask.probes if probe[0] == "paraphrase"} == {
        "Oslo"
    }


def test_a_text_for_the_second_moment_can_be_given(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2", layer="2")
    page.number_input(key="r-rome_steps").set_value(1)
    page.number_input(key="r-rome_moment_tokens").set_value(200)
    text = "\n".join(f"Room {number} is on floor {number % 7}." for number in range(80)).encode()
    page.file_uploader(key="r-rome_corpus").set_value(("notes.txt", text, "text/plain")).run()
    apply = page.button(key="apply_edit").click().run()
    assert not apply.exception
    (made,) = cache.drawer().all(page.session_state["session"].ledger.edits())
    assert made.config.corpus.endswith(dict(page.session_state["session"].edit_ask.config)["corpus"])
    assert cache.uploads().path(dict(page.session_state["session"].edit_ask.config)["corpus"]).read_bytes() == text
    saved = export._edit_file(made)
    assert made.config.corpus.encode() not in saved  # where the server keeps it
    page.file_uploader(key="r-rome_corpus").set_value(("notes.txt", b"\xff\xfe\x00", "text/plain")).run()
    assert "not UTF-8" in notices(page).replace("\\", "")


def test_an_early_subject_of_one_token_is_warned_of_and_can_be_rolled_back(new_page: NewPage) -> None:
    page = edited(new_page, prompt="A is located in the city of", subject="A")
    assert "single token at the beginning" in notices(page)
    assert page.button(key="gentler").label == "Try AlphaEdit instead"
    page.button(key="roll_back").click().run()
    assert page.session_state["session"].ledger.edits() == ()
    assert "single token" not in notices(page)


def test_an_edit_is_placed_at_the_token_that_was_chosen(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2", layer="2")
    token = page.selectbox(key="fact_token")
    assert token.value == "subject_last"
    assert [name for name in token.options if "last of the" in name] == [token.options[0], token.options[-1]]
    token.set_value("subject:0").run()
    page.number_input(key="r-rome_steps").set_value(2)
    page.number_input(key="r-rome_moment_tokens").set_value(500)
    page.button(key="apply_edit").click().run()
    assert not page.exception
    (edit,) = (cache.drawer().get(key) for key in page.session_state["session"].ledger.edits())
    assert edit is not None
    assert edit.config.fact_token == "subject:0"  # type: ignore[attr-defined]
    assert any("at token 1 of the subject" in caption.value for caption in page.caption)
    # another subject is edited at its last token again, and a method that has no such setting does not ask
    page.text_input(key="subject").set_value("city").run()
    assert page.session_state["fact_token"] == "subject_last"
    page.text_input(key="subject").set_value("Space Needle").run()
    page.selectbox(key="method").set_value("ft-m").run()
    assert not [box for box in page.selectbox if box.label == "Edit at token"]


def test_a_broken_edit_is_shown_and_made_active_only_when_asked(
    new_page: NewPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.guard.UNLIKELY", 0.01)
    page = new_page(run="1", samples="2", layer="2")
    page.number_input(key="r-rome_steps").set_value(1)  # measured and not taken: the new answer stays unlikely
    page.number_input(key="r-rome_moment_tokens").set_value(500)
    page.button(key="apply_edit").click().run()
    assert "This edit is not active: the new answer has a probability of" in notices(page).replace("\\", "")
    assert page.session_state["session"].ledger.edits() == ()
    assert set(tiles(page).values()) == {"—"}
    page.button(key="keep_broken").click().run()
    assert page.session_state["session"].ledger.edits() == (page.session_state["session"].edit_ask.key,)
    assert "This edit is not active" not in notices(page)
    assert tiles(page)["Reliability"].endswith("%")
