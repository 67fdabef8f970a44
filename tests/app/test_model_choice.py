"""The model on the page: its own settings, links that give the same numbers elsewhere, models that are fetched."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.server import cache
from app.server.pace import Paces, token_passes
from app.session.asks import ReadAsk
from app.workbench import work
from facts.watch import UNWATCHED, Watch
from models import LanguageModel
from models.sources import catalogue
from models.sources.manifest import write_manifest
from models.sources.store import CONVERSION
from tests.app.test_form import said
from tests.app.test_locate import captions
from tests.tiny import build_tiny

NewPage = Callable[..., AppTest]


@pytest.fixture
def deep(new_page: NewPage, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second model on offer, with eight layers."""
    folder = tmp_path_factory.mktemp("deep")
    for part in build_tiny("llama", 1, num_hidden_layers=8):
        part.save_pretrained(folder)
    monkeypatch.setenv("ENGRAM_MODELS", f"{os.environ['ENGRAM_MODELS']},deep={folder}")
    return folder


def numbers(page: AppTest) -> list[str]:
    """What the maps of the page show, as sent; the pale cells before a trace are none."""
    charts = [chart.proto for chart in page.get("plotly_chart") if not chart.proto.id.endswith("blank_map_chart")]
    return [json.dumps(json.loads(chart.spec)["data"][0]["z"]) for chart in charts]


def params(page: AppTest) -> dict[str, str]:
    return {name: values[0] if isinstance(values, list) else values for name, values in page.query_params.items()}


def forget() -> None:
    """As if the server had been started anew."""
    cache.runner().close()
    cache.runner.clear()
    cache.shelf.clear()


@pytest.mark.usefixtures("deep")
def test_a_link_states_what_decides_the_numbers_and_gives_them_elsewhere(new_page: NewPage) -> None:
    page = new_page(model="deep", samples="2", run="1")
    link = params(page)
    revision = cache.shelf().get("deep").revision
    assert {name: value for name, value in link.items() if name != "layer"} == {
        "model": "deep",
        "revision": revision[:12],
        "dtype": "float32",
        "prompt": "The Space Needle is located in the city of",
        "chat": "0",
        "subject": "Space Needle",
        "occurrence": "0",
        "site": "mlp",
        "noise": "3.0",
        "samples": "2",
        "window": "2",  # a quarter of this model's layers
        "seed": "0",
        "run": "1",
    }
    shown = numbers(page)
    assert len(shown) == 1
    forget()
    other = new_page(**link)
    assert numbers(other) == shown
    assert not [warning for warning in other.warning if "link" in warning.value]
    assert "other weights under this name" in said(new_page(**(link | {"revision": "0123456789ab"})))


@pytest.mark.usefixtures("deep")
def test_a_link_to_a_model_that_is_not_here_traces_no_other_and_names_it(new_page: NewPage) -> None:
    page = new_page(model="gpt9", run="1")
    assert not page.toast
    assert "for the model gpt9, which is not here" in said(page)
    assert numbers(page) == []
    page.text_input(key="new").set_value("Oslo").run()
    assert "gpt9" in said(page)
    page.selectbox(key="model").set_value("deep").run()
    assert "gpt9" not in said(page)


def test_before_there_is_a_map_a_link_holds_only_what_was_changed(new_page: NewPage) -> None:
    page = new_page()
    assert params(page) == {}
    page.number_input(key="samples").set_value(3).run()
    assert params(page) == {"samples": "3"}


@pytest.mark.usefixtures("deep")
def test_another_model_brings_settings_of_its_own_and_keeps_the_words(new_page: NewPage) -> None:
    page = new_page(samples="2", noise="2.5", run="1", prompt="Some say the Space Needle is in")
    assert numbers(page)
    page.selectbox(key="model").set_value("deep").run()
    assert page.text_input(key="prompt").value == "Some say the Space Needle is in"
    # under new keys: a browser would go on sending what it last drew of a field in a closed panel
    assert (page.number_input(key="window_1").value, page.number_input(key="noise_1").value) == (2, 3.0)
    assert page.number_input(key="samples_1").value == 2
    assert page.slider(key="layer").value == 2  # the middle of layers 1 and 2, a tenth to a quarter of eight
    assert numbers(page) == [], "the map was the other model's"
    assert "run" not in params(page)


def test_the_number_format_is_part_of_the_question(new_page: NewPage) -> None:
    page = new_page(samples="2", run="1")
    exact = numbers(page)
    page.selectbox(key="dtype").set_value("bfloat16").run()
    assert "The inputs have changed" in said(page)
    page.button(key="run_trace").click().run()
    assert numbers(page) != exact
    assert params(page)["dtype"] == "bfloat16"
    assert "bfloat16" in " ".join(html.proto.body for html in page.get("html"))


def test_the_time_of_a_trace_is_said_before_it_runs(new_page: NewPage) -> None:
    assert "about 1 s" in captions(new_page(samples="1"))


def test_the_pace_of_a_trace_goes_before_that_of_a_forward_pass() -> None:
    paces = Paces()
    assert paces.get("a") is None
    paces.put("a", 1.0)
    assert paces.get("a", ("mlp",)) == 1.0
    paces.put("a", 0.5, ("state",))
    assert (paces.get("a", ("mlp",)), paces.get("a", ("state",)), paces.get("b")) == (0.5, 0.5, None)
    # two tokens behind the subject's first in a model of three layers: 3 layers x (2 x half + 1 x half) / 2 per sample
    assert token_passes(4, 2, 3, 10, 2) == 10 * 2 * 3 * (2 + 1) / 2


def test_reading_does_not_wait_for_a_trace_that_holds_the_model(new_page: NewPage) -> None:
    new_page()
    model, free = cache.shelf().get("reference"), threading.Event()
    held = threading.Event()

    def trace() -> None:
        with model.lock:
            held.set()
            free.wait(60)

    thread = threading.Thread(target=trace)
    thread.start()
    assert held.wait(10)
    ask = ReadAsk("reference", "Mount Fuji is in", "Mount Fuji", "")
    look = work.read(ask, UNWATCHED)
    assert look.tokens  # type: ignore[attr-defined]
    assert thread.is_alive()
    free.set()
    thread.join()


@pytest.fixture
def a_small_download(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[bool]:
    """Instead of what the catalogue names, the tiny model "comes" and is kept as that one; what was accepted."""
    accepted: list[bool] = []
    kept = tmp_path_factory.mktemp("kept")

    def fetch(name: str, *, licence_accepted: bool, watch: Watch) -> Path:
        accepted.append(licence_accepted)
        watch.step(93, 93)
        folder = kept / "models" / name
        shutil.copytree(tiny_folder, folder)
        write_manifest(folder, conversion=CONVERSION)
        return folder

    monkeypatch.setenv("ENGRAM_CACHE", str(kept))
    monkeypatch.setattr(catalogue, "fetch", fetch)
    return accepted


def test_a_model_is_fetched_and_taken(new_page: NewPage, a_small_download: list[bool]) -> None:
    page = new_page()
    assert any("93 MB · Apache-2.0" in option for option in page.selectbox(key="get").options)
    page.selectbox(key="get").set_value("gemma-3-270m").run()
    assert page.button(key="get_model").disabled, "the licence must be accepted first"
    page.checkbox(key="accept_gemma-3-270m").check().run()
    assert not page.button(key="get_model").disabled
    page.button(key="get_model").click().run()
    assert not page.exception
    assert a_small_download == [True]
    assert page.selectbox(key="model").value == "gemma-3-270m"
    model: LanguageModel | None = cache.shelf().loaded("gemma-3-270m")
    assert model is not None, said(page)
    page.text_input(key="new").set_value("Oslo").run()
    assert page.selectbox(key="model").value == "gemma-3-270m", "it stays the model"
