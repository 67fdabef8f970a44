"""The second moment of the keys: hand-worked numbers, streaming, and a cache that cannot lie."""

from pathlib import Path

import pytest
import torch

from editing.parts import moments
from editing.parts.moments import condition_number, corpus_digest, estimate, identity, load_or_estimate
from editing.parts.rank_one import key_direction
from facts.watch import Cancelled, Watch
from tests.tiny import SENTENCES, tiny_model


def dense(family: str, layer: int, max_tokens: int) -> torch.Tensor:
    """C from one text at a time, with a hook."""
    model, keys = tiny_model(family), []
    down = model.key_module(layer)
    handle = down.register_forward_hook(lambda _, inputs, __: keys.append(inputs[0].reshape(-1, model.d_mlp).double()))
    with torch.no_grad():
        for text in SENTENCES:
            model.module(input_ids=torch.tensor([model.encode(text)]), use_cache=False)
    handle.remove()
    every = torch.cat(keys)[:max_tokens]
    return every.T @ every / len(every)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gptj"])
def test_streamed_estimate_is_the_plain_mean(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BATCH_TOKENS", 100)  # several batches with padding
    monkeypatch.setattr(moments, "BLOCK", 48)  # several blocks of the matrix, the last one smaller
    found = estimate(tiny_model(family), [0, 2], SENTENCES, 150)
    for layer in (0, 2):
        assert found[layer].n_tokens == 150
        torch.testing.assert_close(found[layer].matrix.double(), dense(family, layer, 150), rtol=1e-4, atol=1e-5)


def test_fewer_tokens_than_asked_for_are_counted() -> None:
    model = tiny_model("gpt2")
    n = sum(len(model.encode(text)) for text in SENTENCES)
    assert estimate(model, [0], SENTENCES, 10**6)[0].n_tokens == n


def test_long_texts_are_cut_into_pieces() -> None:
    model = tiny_model("gpt2")
    text = " ".join(SENTENCES)
    assert len(model.tokenize(text)) > model.max_positions
    assert estimate(model, [0], [text], 10**6)[0].n_tokens == len(model.tokenize(text))
    halves = text[: model.most_characters], text[:100]
    longest = halves[0].ljust(model.most_characters, "x") + halves[1]  # more characters than are tokenised at once
    n = len(model.tokenize(longest[: model.most_characters])) + len(model.tokenize(halves[1]))
    assert estimate(model, [0], [longest], 10**6)[0].n_tokens == n


def test_condition_number_by_hand() -> None:
    # eigenvalues of [[2, 1], [1, 2]] are 1 and 3
    assert condition_number(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) == pytest.approx(3.0)
    assert condition_number(torch.tensor([[1.0, 1.0], [1.0, 1.0]])) == float("inf")
    assert identity(3).condition_number == 1.0


def test_a_singular_moment_needs_a_ridge() -> None:
    # C = diag(2, 0) with ridge 0.5 x mean eigenvalue 1 becomes diag(2.5, 0.5): C^-1 (1, 1) = (0.4, 2)
    singular = moments.Moment(torch.diag(torch.tensor([2.0, 0.0])), 1, float("inf"), "one token")
    key = torch.ones(2)
    with pytest.raises(ValueError, match="singular; raise moment_tokens or ridge"):
        key_direction(key, singular, 0.0)
    expected = torch.tensor([0.4, 2.0], dtype=torch.float64)
    torch.testing.assert_close(key_direction(key, singular, 0.5), expected / expected.norm())


def test_layers_that_fit_in_memory_share_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    monkeypatch.setattr(moments, "MOST_ENTRIES", 2 * model.d_mlp**2 + 1)
    load_or_estimate(model, 3, SENTENCES, 100, folder=tmp_path)
    assert sorted(path.stem.rpartition("-")[2] for path in tmp_path.rglob("*.safetensors")) == ["2", "3"]
    monkeypatch.setattr(moments, "MOST_ENTRIES", 1)
    load_or_estimate(model, 0, SENTENCES, 100, folder=tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3


def test_passes_stop_at_a_quarter_half_or_all_of_the_depth(tmp_path: Path) -> None:
    model = tiny_model("gpt2")  # 4 layers

    def layers() -> set[str]:
        return {path.stem.rpartition("-")[2] for path in tmp_path.rglob("*.safetensors")}

    for layer, kept in ((0, "0"), (1, "01"), (2, "0123")):
        load_or_estimate(model, layer, SENTENCES, 100, folder=tmp_path)
        assert layers() == set(kept)


def test_cache_is_used_and_shared_by_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    first = load_or_estimate(model, 1, SENTENCES, 200, folder=tmp_path)
    assert first.condition_number >= 1
    monkeypatch.setattr(moments, "estimate", lambda *_, **__: pytest.fail("computed again"))
    again = load_or_estimate(model, 1, SENTENCES, 200, folder=tmp_path)
    assert torch.equal(again.matrix, first.matrix)
    assert (again.n_tokens, again.condition_number, again.source) == (200, first.condition_number, first.source)
    other = load_or_estimate(model, 0, SENTENCES, 200, folder=tmp_path)  # estimated in the same passes
    assert other.condition_number == pytest.approx(condition_number(other.matrix))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text"])
def test_a_damaged_cache_is_computed_again(damage: str, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    first = load_or_estimate(model, 0, SENTENCES, 100, folder=tmp_path)
    for path in tmp_path.rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-5] ^= 0x10
        path.write_bytes({"empty": b"", "truncated": data[:-100], "flipped": data, "text": b"<html>"}[damage])
    again = load_or_estimate(model, 0, SENTENCES, 100, folder=tmp_path)
    assert torch.equal(again.matrix, first.matrix)


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "moments").write_text("a file where the folder should be")
    assert load_or_estimate(tiny_model("gpt2"), 0, SENTENCES, 100, folder=tmp_path).n_tokens == 100


def test_cache_key_holds_model_layer_corpus_and_count(tmp_path: Path) -> None:
    load_or_estimate(tiny_model("gpt2"), 0, SENTENCES, 100, folder=tmp_path)
    names = {path.name for path in tmp_path.rglob("*.safetensors")}
    for model, texts, count in (
        (tiny_model("gpt2", seed=1), SENTENCES, 100),
        (tiny_model("gpt2"), SENTENCES[1:], 100),
        (tiny_model("gpt2"), SENTENCES, 101),
    ):
        load_or_estimate(model, 0, texts, count, folder=tmp_path)
        now = {path.name for path in tmp_path.rglob("*.safetensors")}
        assert len(now) == len(names) + 1
        names = now
    assert corpus_digest(["ab", "c"]) != corpus_digest(["a", "bc"])


def test_empty_corpus_and_cancelling(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no text"):
        estimate(tiny_model("gpt2"), [0], ["", "  "], 100)
    with pytest.raises(Cancelled):
        load_or_estimate(tiny_model("gpt2"), 0, SENTENCES, 100, folder=tmp_path, watch=Watch(cancelled=lambda: True))
    assert not list(tmp_path.rglob("*.safetensors"))
