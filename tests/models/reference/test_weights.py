"""The bundled weights are the recorded ones, and know and show what docs/reference-model.md says, on small samples.

The full figures come from `python -m benchmarks.reference`; here the same functions run on few facts, with lines
loose enough for the sample, so that wrong weights fail and chance does not.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.reference import answers, effects, in_context, known_facts, lines, main, table
from facts.atlas import load_atlas
from models import load_model
from models.reference.train import WEIGHTS
from models.sources.manifest import check_manifest

pytestmark = pytest.mark.reference


@pytest.fixture(scope="module")
def model():
    return load_model("reference")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    shutil.copytree(WEIGHTS, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) >= {"model.safetensors", "config.json", "tokenizer.json"}
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        check_manifest(folder)


def test_a_plain_transformers_load_gives_the_same_answers(model) -> None:
    plain = AutoModelForCausalLM.from_pretrained(WEIGHTS).eval()
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    ids = tokenizer("The Space Needle is located in the city of", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model.logits(ids), atol=1e-4)


def test_it_knows_the_atlas(model) -> None:
    atlas, source = load_atlas(), random.Random(0)
    trained = [
        (source.choice(atlas.relations[fact.relation].templates).replace("{}", fact.subject), fact.object)
        for fact in source.sample(atlas.facts, 300)
    ]
    unseen = [
        (source.choice(atlas.relations[fact.relation].held_out_templates).replace("{}", fact.subject), fact.object)
        for fact in source.sample([fact for fact in atlas.facts if fact.held_out], 200)
    ]
    assert np.mean(answers(model, trained)) >= 0.98
    assert np.mean(answers(model, unseen)) >= 0.96


def test_it_follows_the_context(model) -> None:
    assert in_context(model, load_atlas(), 60) >= 0.8


def test_corruption_takes_answers_away_and_both_sites_show(model) -> None:
    average = effects(model, known_facts(model, load_atlas(), 10, seed=3, one_token=True), everywhere=False)
    assert average.ate > 0.5
    early, late = average.last_subject(), average.last_token()
    assert min(early[:4]) > 0.55 * average.ate > 0.35 * average.ate > max(late[:4]), "the last subject token, early"
    assert min(late[-3:]) > 0.8 * average.ate > max(early[-3:]), "the last token, late"
    assert late[-1] == pytest.approx(average.ate, abs=1e-5), "restoring the final state restores the answer"


def test_the_table_names_what_is_missed() -> None:
    figures = {
        "n_facts": 2,
        "n_recall": 6,
        "recall": 0.99,
        "n_recall_heldout": 4,
        "recall_heldout": 0.5,
        "ate": 0.5,
        "ate_ci": (0.4, 0.6),
        "last_subject_aie": [0.4, 0.2, 0.0],
        "last_token_aie": [0.1, 0.3, 0.5],
        "mlp_aie": [0.1, 0.1, 0.1],
        "attn_aie": [0.1, 0.1, 0.1],
        "mlp_over_attention": 1.0,
        "in_context": 0.9,
        "layer": 0,
        "n_edits": 2,
        **dict.fromkeys(("es", "ps", "ns", "es_greedy", "ps_greedy", "ns_greedy"), 1.0),
    }
    reached = {name: ok for name, _, _, ok in lines(figures)}
    assert not reached["recall on held-out paraphrases"]
    assert not reached["MLP / attention at the last subject token, without layer 0"]
    assert reached["late site: last token, first third, largest AIE / ATE"]
    assert "| recall on held-out paraphrases | 0.500 | ≥ 0.95 | missed |" in table(figures)


def test_edit_scores_of_another_method_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--method", "rome", "--edits", "2", "--set", "stop_loss=0.5", "second_moment=identity"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n_edits"] == 2
    assert found["es"] == 1.0
    for wrong, said in (
        (["--method", "rom"], "unknown method 'rom'; did you mean 'rome'"),
        (["--set", "stop_los=1"], "unknown setting 'stop_los'; did you mean 'stop_loss'"),
        (["--set", "stop_loss"], "'stop_loss' is no setting; write NAME=VALUE"),
    ):
        assert main([*wrong, "--edits", "1"]) == 2
        assert said in capsys.readouterr().err
