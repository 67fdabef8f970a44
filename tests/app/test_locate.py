"""Locating on the page, without a browser: the suggested layer, the map as it is sent, what is said beside it."""

import base64
import json
from collections.abc import Callable

import numpy as np
from streamlit.testing.v1 import AppTest

from app import workflow
from app.workflow import Located
from editing.parts.suggest import suggest_layer
from facts import Fact
from models import LanguageModel, subject_span
from tests.tracing.made import made_result
from tracing import TraceConfig

NewPage = Callable[..., AppTest]
FACT = Fact.from_prompt("The Space Needle is located in the city of", "Space Needle")


def test_layers_whose_mlp_has_no_key_are_silent(tiny: Callable[[str], LanguageModel]) -> None:
    model = tiny("gpt_neo")
    silent = workflow.silent_layers(model, FACT)
    span, last = subject_span(model, FACT.prompt, FACT.subject), len(model.encode(FACT.prompt)) - 1
    assert silent == dict.fromkeys([*range(span.start, span.stop), last], frozenset())
    zeroed = {
        name: value * 0
        for name, value in model.module.named_parameters()
        if name.startswith("transformer.h.2.mlp.c_fc")
    }
    assert workflow.silent_layers(model.view(zeroed), FACT) == dict.fromkeys(silent, frozenset({2}))


def located(silent: dict[int, frozenset[int]]) -> Located:
    """A trace of MLP outputs at whose last subject token layers 1 and 2 stand out, the former more."""
    restored = np.full((3, 4, 4), 0.1, dtype=np.float32)
    restored[:, 2, 1] += [0.45, 0.5, 0.55]
    restored[:, 2, 2] += [0.36, 0.4, 0.44]
    corrupted = np.full(3, 0.1, dtype=np.float32)
    traced = made_result(config=TraceConfig(site="mlp_out", samples=3), corrupted=corrupted, restored=restored)
    return Located((made_result(), traced), silent, usual=3)


def test_the_suggestion_passes_over_silent_layers() -> None:
    found = located({})
    assert found.main.config.site == "mlp_out"
    assert (found.suggested, found.start) == (1, 1)
    assert (located({2: frozenset({1})}).suggested, located({1: frozenset({1})}).suggested) == (2, 1)
    # Where every layer is silent nothing is suggested, and a reader begins where published settings lie.
    nowhere = located({2: frozenset(range(4))})
    assert (nowhere.suggested, nowhere.start) == (None, 3)
    assert "no edit can act there" in nowhere.suggestion().reason


def test_where_no_layer_stands_out_the_slider_begins_at_the_usual_one(tiny: Callable[[str], LanguageModel]) -> None:
    model = tiny("gpt_neo")  # of random weights, so that nothing is located
    found = workflow.locate(model, FACT, ["resid_post", "mlp_out"], samples=2)
    assert found.suggested is None
    assert found.start == found.usual == suggest_layer(model)


def captions(page: AppTest) -> str:
    return " ".join(caption.value for caption in page.caption)


def test_silent_layers_are_mentioned_only_where_they_matter(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2", layer="2")
    assert "No layer stands out at " in captions(page)
    silent = "layer 0, whose MLP is silent here, so an edit there has no effect"
    assert silent not in captions(page)
    page.slider(key="layer").set_value(0).run()
    assert silent in captions(page)


def test_choosing_a_layer_does_not_change_the_figure(new_page: NewPage) -> None:
    """Streamlit builds a changed figure anew, and loses the clicks that fall into that time."""
    page = new_page(run="1", samples="2")
    chart = page.get("plotly_chart")[0].proto
    page.slider(key="layer").set_value(3).run()
    again = page.get("plotly_chart")[0].proto
    assert (again.id, again.spec) == (chart.id, chart.spec)
    assert "shapes" not in json.loads(chart.spec)["layout"]
    assert "the largest effect" in chart.alt


def test_another_measure_changes_map_table_and_words_but_not_the_suggestion(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    suggested = next(caption.value for caption in page.caption if "stands out at" in caption.value)
    first = json.loads(page.get("plotly_chart")[0].proto.spec)
    page.selectbox(key="measure").set_value("log_probability").run()
    assert not page.exception
    second = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert "nats" in second["data"][0]["colorbar"]["title"]["text"]
    assert "probability" in first["data"][0]["colorbar"]["title"]["text"]
    assert first["data"][0]["z"] != second["data"][0]["z"]
    page.session_state["trace_tab"] = "Table"
    page.run()
    assert "nats" in captions(page)
    assert suggested in captions(page)
    assert "log probability" in page.get("plotly_chart")[0].proto.alt


def test_the_strongest_effect_on_a_divergence_is_the_one_that_lowers_it_most(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2", noise="20")
    page.selectbox(key="measure").set_value("kl").run()
    chart = page.get("plotly_chart")[0].proto
    drawn = json.loads(chart.spec)
    names = drawn["layout"]["yaxis"]["ticktext"]
    last_subject = max(index for index, name in enumerate(names) if name.endswith("*"))
    packed = drawn["data"][0]["z"]
    effects = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"]).reshape(len(names), -1)
    assert (
        f"At the last subject token it is {effects[last_subject].min():.2f}, at layer {effects[last_subject].argmin()}"
        in chart.alt
    )


def test_logit_difference_needs_another_answer_and_the_fraction_restored_nothing(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    assert "Logit difference" not in page.selectbox(key="measure").options
    page = new_page(run="1", samples="2", against="Rome", noise="20")
    assert "Logit difference" in page.selectbox(key="measure").options
    page.selectbox(key="measure").set_value("logit_difference").run()
    assert "logits" in json.loads(page.get("plotly_chart")[0].proto.spec)["data"][0]["colorbar"]["title"]["text"]
    page.selectbox(key="measure").set_value("fraction_restored").run()
    assert not page.exception
    assert "total effect" in json.loads(page.get("plotly_chart")[0].proto.spec)["data"][0]["colorbar"]["title"]["text"]
