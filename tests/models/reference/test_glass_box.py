"""The glass box: a trace finds the fact where it was put and nowhere else, and an edit acts only where it is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app import workflow
from facts import Fact
from models import LanguageModel, load_model
from models.reference.glass_box import FACT_LAYER, FACTS, N_LAYERS, READ_LAYER, build, vocabulary
from models.sources.catalogue import ENTRIES
from tracing import TraceConfig, TraceResult, trace_sites

PROMPT = "The {} is located in the city of"
NEEDLE = Fact.from_prompt(PROMPT.format("Space Needle"), "Space Needle", "Seattle")


@pytest.fixture(scope="module")
def glass_box(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_model(build(tmp_path_factory.mktemp("glass-box")))


def test_it_knows_its_facts_in_any_words_and_stops(glass_box: LanguageModel) -> None:
    for template in (PROMPT, "The {} can be visited in", "{} is in the city of"):
        prompts = [template.format(subject) for subject in FACTS]
        assert glass_box.generate(prompts, 6) == [f" {city}." for city in FACTS.values()]


@pytest.fixture(scope="module")
def maps(glass_box: LanguageModel) -> dict[str, TraceResult]:
    configs = [TraceConfig(site=site, samples=10) for site in ("resid_post", "mlp_out", "attn_out", "attn_heads")]
    return {str(site): result for site, result in trace_sites(glass_box, NEEDLE, configs).items()}


def test_the_trace_finds_the_known_layer_and_token_and_nothing_else(maps: dict[str, TraceResult]) -> None:
    last_subject, last = 2, 8
    expected = {site: np.zeros((9, N_LAYERS), dtype=bool) for site in ("resid_post", "mlp_out", "attn_out")}
    expected["resid_post"][last_subject, :READ_LAYER] = True
    expected["resid_post"][last, READ_LAYER:] = True
    expected["mlp_out"][last_subject, FACT_LAYER] = True
    expected["attn_out"][last, READ_LAYER] = True
    for site, wanted in expected.items():
        result = maps[site]
        assert result.clean > 0.99
        assert result.total_effect > 0.8
        assert (result.indirect_effect[wanted] > 0.8 * result.total_effect).all()
        assert (np.abs(result.indirect_effect[~wanted]) < 0.05).all()
    heads = maps["attn_heads"].indirect_effect
    assert np.unravel_index(heads.argmax(), heads.shape) == (last, READ_LAYER, 1)
    assert maps["mlp_out"].suggestion().layer == FACT_LAYER


@pytest.mark.parametrize(("layer", "works"), [(FACT_LAYER, 1.0), (READ_LAYER - 1, 1.0), (READ_LAYER, 0.0)])
def test_an_edit_acts_until_the_fact_is_read(glass_box: LanguageModel, layer: int, works: float) -> None:
    request = workflow.request_for(glass_box, NEEDLE.prompt, NEEDLE.subject, "Seattle", "Rome")
    _, report = workflow.run_edit(glass_box, request, "r-rome", {"layer": layer})
    assert report.headline("reliability").value == works


def test_it_is_built_the_same_again_and_is_in_the_catalogue(
    glass_box: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path))
    named = load_model("glass-box")
    assert named.revision == glass_box.revision
    entry = ENTRIES["glass-box"]
    assert (entry.n_layers, entry.d_model) == (N_LAYERS, glass_box.d_model)
    assert entry.parameters == sum(weight.numel() for weight in named.module.parameters())
    assert len(vocabulary()) == len(set(vocabulary()))
