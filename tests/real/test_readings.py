"""Lens, knockout, attribution, odd subjects, number formats and files, on a pretrained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from facts import Fact
from models import LanguageModel, load_model, subject_span
from models.sources.catalogue import ENTRIES, folder_of
from models.sources.folder import folder_digest
from models.sources.manifest import file_digest, read_manifest
from tests.oracle import lenses as oracle
from tests.real.conftest import NAME
from tracing import TraceConfig, TraceResult, attention_knockout, attribution_patching, causal_trace, logit_lens

EIFFEL = Fact.from_prompt("The Eiffel Tower is located in the city of", "Eiffel Tower", "Paris")
IFFEL = 2
SUBJECTS = [
    ("The emoji 🗼 is a picture of a", "🗼"),
    ("北京是中国的首都，位于", "北京"),
    ("The city of São Paulo is in the country of", "São Paulo"),
    ("Cárcassonne's walls stand in", "Cárcassonne"),
    ("The Iranian capital of Iran is", "Iran"),
    ("عاصمة فرنسا هي", "فرنسا"),
]


@pytest.mark.parametrize(("prompt", "subject"), SUBJECTS, ids=[subject for _, subject in SUBJECTS])
def test_a_subject_of_odd_tokens_is_covered_by_its_tokens(smollm2: LanguageModel, prompt: str, subject: str) -> None:
    ids = smollm2.encode(prompt)
    span = subject_span(smollm2, prompt, subject)
    covered = smollm2.decode(ids[span.start : span.stop])
    assert covered.strip().startswith(subject)
    shorter = [ids[span.start + 1 : span.stop], ids[span.start : span.stop - 1]]
    assert all(subject not in smollm2.decode(part) for part in shorter)


def test_a_subject_of_half_characters_is_traced(smollm2: LanguageModel) -> None:
    """An emoji is several tokens, none of which is a character."""
    prompt, subject = SUBJECTS[0]
    config = TraceConfig(samples=2)
    result = causal_trace(smollm2, Fact.from_prompt(prompt, subject), config, positions=["last_subject", "last_token"])
    assert result.subject_span[1] - result.subject_span[0] > 1
    assert "\ufffd" not in "".join(result.tokens)
    assert np.abs(result.corrupted - result.clean).min() > 1e-3
    assert result.restored[:, -1, -1] == pytest.approx(result.clean, abs=1e-5)


def test_the_last_layer_of_the_lens_is_the_model(smollm2: LanguageModel) -> None:
    lens = logit_lens(smollm2, EIFFEL)
    logits = smollm2.logits(torch.tensor([smollm2.encode(EIFFEL.prompt)]))[0]
    answer = lens.word_ids[0]
    expected = torch.log_softmax(logits.double(), -1)[:, answer]
    np.testing.assert_allclose(lens.log_prob[0, :, -1], expected.numpy(), atol=1e-4)
    assert lens.top_words[-1][-1][0] == " Paris"
    # the answer is read off late, and off no early layer
    assert lens.probability()[-1, :15].max() < 0.05 < 0.5 < lens.probability()[-1, -1]


def test_a_cut_edge_is_a_weight_of_zero(smollm2: LanguageModel) -> None:
    """One window against an eager forward whose attention weights are cut by hand; grouped heads included."""
    result = attention_knockout(smollm2, EIFFEL, window=6, edges={"last <- subject": ([9], [1, 2, 3])})
    assert result.clean == pytest.approx(0.70, abs=0.01)
    layer = int(result.change[0].argmin())
    assert result.change[0, layer] < -0.3  # the last position fetches the answer from the subject
    cut = torch.zeros(10, 10, dtype=torch.bool)
    cut[9, 1:4] = True
    module, before = smollm2.module, smollm2.module.config._attn_implementation
    ids = torch.tensor([smollm2.encode(EIFFEL.prompt)])
    with smollm2.lock, torch.no_grad():
        try:
            module.set_attn_implementation("eager")
            window = TraceConfig(window=6).layers_of(layer, smollm2.n_layers)
            with oracle.weights_cut(module, window, cut):
                log_prob = torch.log_softmax(module(input_ids=ids).logits[0, -1], -1)
        finally:
            module.set_attn_implementation(before)
    assert result.log_prob[0, layer] == pytest.approx(float(log_prob[result.answer_ids[0]]), abs=1e-3)


def test_an_estimate_points_at_the_cells_that_the_exact_map_shows(smollm2: LanguageModel) -> None:
    config = TraceConfig(samples=2)
    exact = causal_trace(smollm2, EIFFEL, config, positions=[IFFEL, 3, 9])
    found = attribution_patching(smollm2, EIFFEL, config, sites=["resid_post"])["resid_post"]
    assert found.clean_log_prob == pytest.approx(np.log(exact.clean), abs=1e-4)
    np.testing.assert_allclose(np.exp(found.corrupted_log_prob), exact.corrupted, atol=1e-5)
    effect = exact.by("log_probability").indirect_effect
    rows = [IFFEL, 3, 9]
    correlation = np.corrcoef(found.estimate[rows].ravel(), effect[rows].ravel())[0, 1]
    assert correlation > 0.6
    assert found.estimate[IFFEL, :10].min() > 0 > found.estimate[3, :10].max()


def test_bfloat16_gives_nearly_the_same_map(smollm2: LanguageModel) -> None:
    half = load_model(NAME, dtype="bfloat16")
    assert (smollm2.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert half.revision != smollm2.revision
    maps = [
        causal_trace(model, EIFFEL, TraceConfig(samples=3), positions=[IFFEL, 9]).indirect_effect[[IFFEL, 9]]
        for model in (smollm2, half)
    ]
    difference = np.abs(maps[0] - maps[1])
    assert np.median(difference) < 0.02
    assert difference.max() < 0.1


def test_a_trace_is_saved_and_opened_whole(smollm2: LanguageModel, tmp_path: Path) -> None:
    result = causal_trace(smollm2, EIFFEL, TraceConfig(samples=2), positions=["last_token"])
    result.save(tmp_path / "trace.npz")
    again = TraceResult.load(tmp_path / "trace.npz")
    np.testing.assert_array_equal(again.restored, result.restored)
    assert (again.revision, again.tokens, again.config) == (smollm2.revision, result.tokens, result.config)
    assert again.to_json() == result.to_json()
    assert json.loads(result.to_json())["p_clean"] == pytest.approx(result.clean)


def test_what_was_fetched_is_what_its_manifest_says(smollm2: LanguageModel) -> None:
    """The source's sha256 is the one pinned in the catalogue, and every file has its own."""
    folder = folder_of("smollm2-135m") if NAME in ENTRIES else Path(NAME)
    if not (folder / "manifest.json").is_file():
        pytest.skip("the model was not fetched by `python -m models get`")
    manifest, entry = read_manifest(folder, "fetch it again"), ENTRIES["smollm2-135m"]
    assert entry.index is not None
    assert manifest["source_sha256"] == entry.index.sha256
    assert manifest["origin"] == "dequantised from Q4_1 and Q8_0" == smollm2.origin
    small = [name for name in manifest["files"] if name != "model.safetensors"]  # loading has checked that one
    assert {name: file_digest(folder / name) for name in small} == {name: manifest["files"][name] for name in small}


def test_the_revision_says_which_weights_and_which_format(smollm2: LanguageModel) -> None:
    folder = folder_of("smollm2-135m") if NAME in ENTRIES else Path(NAME)
    assert folder_digest(folder, "torch.float32") == smollm2.revision
    assert folder_digest(folder, "torch.bfloat16") != smollm2.revision
