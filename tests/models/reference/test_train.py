"""The training script, end to end on a model far too small to learn anything."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from facts.atlas import load_atlas
from models import load_model
from models.reference.train import (
    Recipe,
    batches,
    build_model,
    drop_modules,
    encode,
    fit,
    learning_rate,
    save,
    train_tokenizer,
)

TINY = Recipe(
    steps=3, layers=4, local_layers=2, d_model=32, d_mlp=48, heads=2, vocabulary=900, context=128, tokens_per_batch=256
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TINY)


def test_the_tokenizer_splits_subjects_and_spares_objects() -> None:
    full = train_tokenizer(Recipe())
    atlas = load_atlas()
    objects = [len(full(f" {fact.object}").input_ids) for fact in atlas.facts]
    subjects = [len(full(f" {subject}").input_ids) for subject in atlas.subjects()]
    assert sum(n == 1 for n in objects) / len(objects) > 0.6
    assert sum(n > 1 for n in subjects) / len(subjects) > 0.75


def test_objects_weigh_more_and_their_tokens_are_found(tokenizer) -> None:
    (document,) = encode(tokenizer, ["The Space Needle is in \x1fSeattle\x1f."], 4.0)
    heavy = tokenizer.decode([token for token, weight in document if weight == 4.0])
    assert heavy.strip() == "Seattle"
    assert document[-1] == (tokenizer.eos_token_id, 1.0)


def test_sequences_hold_whole_documents(tokenizer) -> None:
    stream = batches(TINY, tokenizer)
    for _ in range(3):
        ids, weights = next(stream)
        assert ids.shape == weights.shape
        assert ids.numel() == TINY.tokens_per_batch
        for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            assert row[-1] == tokenizer.eos_token_id
            filled = [token for token, w in zip(row, weight, strict=True) if w]
            assert not filled or filled[-1] == tokenizer.eos_token_id


def test_the_schedule_warms_up_and_ends_near_nothing() -> None:
    assert learning_rate(TINY, 0.01) == pytest.approx(TINY.learning_rate / 2, rel=0.01)
    assert learning_rate(TINY, 1.0) == pytest.approx(0.005 * TINY.learning_rate)


def test_dropped_modules_are_dropped_in_training_only(tokenizer) -> None:
    model = build_model(Recipe(**{**TINY.__dict__, "drop": 0.5}), len(tokenizer))
    drop_modules(model, Recipe(**{**TINY.__dict__, "drop": 0.5}))
    ids = torch.arange(12)[None]
    model.eval()
    first, second = model(ids).logits, model(ids).logits
    assert torch.equal(first, second)
    model.train()
    torch.manual_seed(0)
    outputs = {tuple(model(ids).logits.flatten()[:4].tolist()) for _ in range(8)}
    assert len(outputs) > 1


def test_training_twice_gives_the_same_weights_and_a_model_that_loads(tokenizer, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        model = build_model(TINY, len(tokenizer))
        log = fit(model, tokenizer, TINY)
        assert log["steps"] == 3
        save(model, tokenizer, TINY, log, folder)
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    manifest = json.loads((folders[0] / "manifest.json").read_text())
    assert manifest["model.safetensors"] == hashlib.sha256(weights[0]).hexdigest()
    loaded = load_model(folders[0])
    assert loaded.n_layers == 4
    assert torch.isfinite(loaded.logits(torch.tensor([loaded.encode("The Space Needle is")]))).all()
