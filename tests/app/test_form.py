"""The form on the page, without a browser: examples, what the fields refuse, links, and what is said about answers."""

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from app.session.examples import DEFAULT, UNKNOWN

NewPage = Callable[..., AppTest]


def said(page: AppTest) -> str:
    """Every notice on the page."""
    return " ".join(element.value for kind in (page.error, page.warning, page.info) for element in kind)


def test_examples_fill_the_fields(new_page: NewPage) -> None:
    page = new_page()
    page.menu_button(key="example").click("Mount Fuji → Italy").run()
    values = [page.text_input(key=key).value for key in ("prompt", "subject", "answer", "new")]
    assert values == ["Mount Fuji is a mountain in the country of", "Mount Fuji", "", "Italy"]
    page.text_input(key="new").set_value("Japan").run()
    assert "equals" not in said(page)  # the atlas knows the answer, but the field is the reader's
    page.text_input(key="prompt").set_value("They say Mount Fuji is in").run()
    assert page.text_input(key="new").value == "Japan"
    page.menu_button(key="example").click(DEFAULT.title).run()
    assert [page.text_input(key=key).value for key in ("prompt", "new")] == [DEFAULT.prompt, DEFAULT.new]


def test_new_answer_equal_to_the_true_one(new_page: NewPage) -> None:
    page = new_page(answer="Seattle", new="Seattle")
    assert "equals the true one" in said(page)
    assert not page.button(key="run_trace").disabled


def test_a_subject_that_is_not_in_the_prompt_stops_the_run(new_page: NewPage) -> None:
    page = new_page(subject="Eiffel Tower")
    assert "not in the prompt" in said(page)
    page.button(key="run_trace").click().run()
    assert [toast.value for toast in page.toast] == ["First correct the field named above."]
    assert not page.get("plotly_chart")


def test_an_unknown_fact_is_said_to_be_unknown(new_page: NewPage) -> None:  # check 19
    page = new_page(prompt=UNKNOWN.prompt, subject=UNKNOWN.subject)
    assert "explains a guess" in said(page)
    assert not page.button(key="run_trace").disabled


def test_bad_values_in_a_link_give_defaults_and_one_notice(new_page: NewPage) -> None:  # check 20
    page = new_page(site="banana", noise="abc", samples="99999", layer="400", model="http://x")
    notices = [toast.value for toast in page.toast]
    assert len(notices) == 1
    assert "noise, samples, layer, site" in notices[0]
    assert "which is not here" in said(page)  # the model, until another is chosen
    assert page.number_input(key="samples").value == 10
    assert page.number_input(key="noise").value == 3.0
    assert not page.button(key="run_trace").disabled


def test_too_little_noise_is_said(new_page: NewPage) -> None:
    assert "raise the noise" in said(new_page(noise="0.1", samples="2", run="1"))


def test_changed_inputs_are_marked(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    assert page.button(key="run_trace").label == "Run trace"
    page.text_input(key="prompt").set_value("The Space Needle is in the city of").run()
    assert "The inputs have changed since this trace" in said(page)
    assert page.button(key="run_trace").label == "Run again"
    assert len(page.get("plotly_chart")) == 1
    page.button(key="run_trace").click().run()
    assert "The inputs have changed" not in said(page)
