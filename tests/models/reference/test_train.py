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
    hide_names,
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
    (document,) = encode(tokenizer, ["The \x1eSpace Needle\x1e is in \x1fSeattle\x1f."], 4.0)
    heavy = tokenizer.decode([piece.id for piece in document if piece.weight == 4.0])
    assert heavy.strip() == "Seattle"
    assert document[-1] == (tokenizer.eos_token_id, 1.0, 0)


def test_pieces_of_a_name_count_down_to_its_last(tokenizer) -> None:
    """Two names in one text, the second at once after the first: each counts for itself."""
    (document,) = encode(tokenizer, ["\x1eSpace Needle\x1e \x1eRialto Bridge\x1e is in"], 1.0)
    ends = [at for at, piece in enumerate(document) if at and document[at - 1].to_end == 1]
    texts = [tokenizer.decode([piece.id for piece in document[: end + 1]]) for end in ends]
    assert texts == ["Space Needle", "Space Needle Rialto Bridge"]
    first = [piece.to_end for piece in document[: ends[0] + 1]]
    assert first == list(range(ends[0], -1, -1))
    assert all(piece.to_end == 0 for piece in document[ends[1] :])


def test_hidden_names_leave_only_their_last_piece_to_later_tokens() -> None:
    """A name at positions 1 to 3 of six: pieces 1 and 2 are seen up to position 3 and by nobody later."""
    to_end = torch.tensor([[0, 2, 1, 0, 0, 0]])
    seen = hide_names(to_end, 1.0)[0, 0] == 0
    expected = torch.ones(6, 6, dtype=torch.bool).tril()
    expected[4:, 1:3] = False
    assert torch.equal(seen, expected)
    assert torch.equal(hide_names(to_end, 0.0)[0, 0] == 0, torch.ones(6, 6, dtype=torch.bool).tril())


def test_sequences_hold_whole_documents(tokenizer) -> None:
    stream = batches(TINY, tokenizer)
    for _ in range(3):
        ids, weights, to_end = next(stream)
        assert ids.shape == weights.shape == to_end.shape
        assert ids.numel() == TINY.tokens_per_batch
        for row, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            assert row[-1] == tokenizer.eos_token_id
            filled = [token for token, w in zip(row, weight, strict=True) if w]
            assert not filled or filled[-1] == tokenizer.eos_token_id


def test_no_batch_is_empty() -> None:
    """Long documents pile up while rows are short; they must not keep the short ones out."""
    stream = batches(Recipe(), train_tokenizer(Recipe()))
    for _ in range(150):
        _, weights, _ = next(stream)
        assert (weights.sum(1) > 0).all()
        assert (weights == Recipe().object_weight).sum() > 20


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
