"""Locating on the page, without a browser: the suggested layer, the map as it is sent, what is said beside it."""

import base64
import json
from collections.abc import Callable

import numpy as np
from streamlit.testing.v1 import AppTest

from app import workflow
from app.workflow import Located
from facts import Fact
from models import LanguageModel

NewPage = Callable[..., AppTest]
FACT = Fact.from_prompt("The Space Needle is located in the city of", "Space Needle")


def test_layers_whose_mlp_has_no_key_are_silent(tiny: Callable[[str], LanguageModel]) -> None:
    model = tiny("gpt_neo")
    assert workflow.silent_layers(model, FACT) == frozenset()
    zeroed = {
        name: value * 0
        for name, value in model.module.named_parameters()
        if name.startswith("transformer.h.2.mlp.c_fc")
    }
    assert workflow.silent_layers(model.view(zeroed), FACT) == {2}


def test_the_suggestion_passes_over_silent_layers(tiny: Callable[[str], LanguageModel]) -> None:
    found = workflow.locate(tiny("gpt_neo"), FACT, ["resid_post", "mlp_out"], samples=2)
    assert found.main.config.site == "mlp_out"
    position, best = found.main.peak()
    assert found.suggested == best
    row = found.main.indirect_effect[position].tolist()
    second = row.index(sorted(row)[-2])
    assert Located(found.results, frozenset({best})).suggested == second
    # Where every layer is silent there is nothing better to suggest than the peak.
    assert Located(found.results, frozenset(range(4))).suggested == best


def captions(page: AppTest) -> str:
    return " ".join(caption.value for caption in page.caption)


def test_silent_layers_are_mentioned_only_where_they_matter(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2", layer="2")
    assert "The trace suggests layer" in captions(page)
    silent = "layer 0, whose MLP is silent here: an edit cannot act there"
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
    assert "strongest effect" in chart.alt


def test_another_measure_changes_map_table_and_words_but_not_the_suggestion(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    suggested = next(caption.value for caption in page.caption if "suggests" in caption.value)
    first = json.loads(page.get("plotly_chart")[0].proto.spec)
    page.selectbox(key="measure").set_value("log_probability").run()
    assert not page.exception
    second = json.loads(page.get("plotly_chart")[0].proto.spec)
    assert "nats" in second["data"][0]["colorbar"]["title"]["text"]
    assert "probability" in first["data"][0]["colorbar"]["title"]["text"]
    assert first["data"][0]["z"] != second["data"][0]["z"]
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
    assert f"is at layer {effects[last_subject].argmin()}" in chart.alt


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
