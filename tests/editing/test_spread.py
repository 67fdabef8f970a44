"""MEMIT's algorithm on models: agreement with the slow oracle, and what its steps must do."""

import dataclasses
from pathlib import Path

import pytest
import torch

from editing import apply_edits
from editing.edit import Edit
from editing.methods.alphaedit import past_keys
from editing.methods.memit import MemitConfig
from editing.methods.spread import search
from editing.parts.contexts import make_contexts
from editing.parts.keys import make_batch, mean_by_kind, read_lookups
from editing.parts.moments import Moment, moment_for, regular
from editing.parts.spectrum import spectrum
from editing.parts.values import optimise_values, read_starts
from editing.registry import get_method
from models import LanguageModel, as_out_in
from tests.editing.quick import DAVIS, NEEDLE, REQUESTS, TOWER, quick
from tests.oracle.memit import memit
from tests.oracle.memit import search as searched
from tests.oracle.rome import Settings, Text
from tests.tiny import build_tiny, tiny_model

SPREAD = ("memit", "emmet", "alphaedit")


def batches_of(model: LanguageModel, config, requests=REQUESTS):  # type: ignore[no-untyped-def]
    contexts = make_contexts(model, config.prefixes, config.seed)
    return [make_batch(model, request.fact, request.target_new, contexts) for request in requests]


@pytest.mark.parametrize("compat", ["memit", "memit-code"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "gptj"])
def test_memit_agrees_with_the_slow_oracle(family: str, compat: str, small_corpus: str) -> None:
    model = tiny_model(family)
    # the public rate is absolute, and a smaller one leaves the clamp room
    given = {"learning_rate": 0.05} if compat == "memit-code" else {}
    config = quick(
        "memit", small_corpus, depth=3, moment_weight=0.5, ridge=1.0, weight_decay=0.03, norm_limit=0.2, compat=compat,
        **given,
    )  # fmt: skip
    edit = get_method("memit").compute(model, REQUESTS, config)
    facts = []
    for batch in batches_of(model, config):
        rows = [Text(row.ids, row.lookup, row.n_prompt) for row in batch.rows]
        facts.append((rows[:-1], rows[-1]))
    downs = [model.key_module(layer) for layer in config.layers]
    moments = [regular(moment_for(model, layer, config), config.ridge) for layer in config.layers]
    blocks = [model.module.get_submodule(model.architecture.block(layer)) for layer in config.layers]
    settings = Settings(
        config.steps, config.learning_rate, config.kl_factor, config.weight_decay, config.norm_limit, 0.0,
        config.stop_loss, 0.0, compat == "memit-code",
    )  # fmt: skip
    wanted = torch.stack([searched(model.module, blocks[-1], downs[-1], *fact, settings) for fact in facts], dim=1)
    ours = search(model, REQUESTS, config).targets
    assert float((ours - wanted).norm() / wanted.norm()) < 1e-5
    expected = memit(
        model.module,
        blocks,
        downs,
        [as_out_in(down, down.weight) for down in downs],
        facts,
        moments,
        config.moment_weight * model.d_mlp,
        settings,
    )
    assert len(edit.weights) == len(expected) == 3  # each on top of those before, in float32
    for delta, change in zip(edit.weights, expected, strict=True):
        assert float((delta.matrix().double() - change).norm() / change.norm()) < 3e-5


def test_the_public_search_has_its_constants() -> None:
    config = MemitConfig(compat="memit-code")
    assert (config.steps, config.learning_rate, config.kl_factor, config.weight_decay) == (20, 0.5, 0.0625, 0.5)
    assert (config.norm_limit, config.prefixes, config.moment_weight * 6400) == (0.75, 5, 20_000)
    assert MemitConfig(compat="memit-code", norm_limit=4.0).norm_limit == 4.0
    assert MemitConfig().norm_limit == 4.0


@pytest.mark.parametrize("site", ["mlp_out", "resid_post"])
def test_searches_together_find_what_each_finds_alone(site: str, small_corpus: str) -> None:
    """Also when one of them stops before the others."""
    model = tiny_model("gpt2")
    config = quick("memit", small_corpus, steps=15, learning_rate=0.5, stop_loss=5.3)
    batches = batches_of(model, config)
    starts = read_starts(model, 2, batches, site=site)  # type: ignore[arg-type]
    together = optimise_values(model, 2, batches, starts, config.value_settings, site=site)  # type: ignore[arg-type]
    assert len({len(value.losses) for value in together}) > 1
    for batch, value in zip(batches, together, strict=True):
        start = read_starts(model, 2, [batch], site=site)  # type: ignore[arg-type]
        (alone,) = optimise_values(model, 2, [batch], start, config.value_settings, site=site)  # type: ignore[arg-type]
        assert len(alone.losses) == len(value.losses)
        torch.testing.assert_close(alone.delta, value.delta, rtol=1e-3, atol=1e-4)
        assert alone.p_found == pytest.approx(value.p_found, rel=1e-3)


@pytest.mark.parametrize("name", SPREAD)
def test_keys_are_kept_and_the_rank_is_the_number_of_facts(name: str, small_corpus: str) -> None:
    model = tiny_model("gpt2")
    config = quick(name, small_corpus)
    edit = get_method(name).compute(model, REQUESTS, config)
    assert [delta.name for delta in edit.weights] == [model.architecture.key_weight_name(n) for n in config.layers]
    for delta in edit.weights:
        assert edit.keys[delta.name].shape == (len(REQUESTS), model.d_mlp)
        assert int(torch.linalg.matrix_rank(delta.matrix())) == len(REQUESTS)
    batches = batches_of(model, config)  # the first layer's keys are the unedited model's
    rows = [row for batch in batches for row in batch.rows[:-1]]
    read = read_lookups(model, rows, [("mlp_key", config.layers[0])])["mlp_key", config.layers[0]]
    expected = torch.stack([mean_by_kind(some) for some in read.split(len(batches[0].rows) - 1)])
    torch.testing.assert_close(edit.keys[edit.weights[0].name], expected.float())


def test_the_bare_prompt_weighs_as_much_as_all_contexts() -> None:
    keys = torch.tensor([[8.0, 0.0], [2.0, 2.0], [4.0, 6.0]])
    torch.testing.assert_close(mean_by_kind(keys), torch.tensor([5.5, 2.0]).double())
    torch.testing.assert_close(mean_by_kind(keys[:1]), torch.tensor([8.0, 0.0]).double())


def test_layers_close_the_gap(small_corpus: str) -> None:
    free = quick("memit", small_corpus, moment_weight=1e-6, prefixes=0, norm_limit=0.1)
    edit = get_method("memit").compute(tiny_model("gpt2"), (NEEDLE,), free)
    assert edit.diagnostic("gap left").value < 0.2
    protected = quick("memit", small_corpus, moment_weight=1e4)
    heavy = get_method("memit").compute(tiny_model("gpt2"), (NEEDLE,), protected)
    assert heavy.diagnostic("gap left").value > 0.9
    assert "is missing" in heavy.diagnostic("gap left").warning


def test_what_old_keys_weigh_is_what_they_keep(small_corpus: str) -> None:
    model = tiny_model("gpt2")
    light, heavy = (
        get_method("memit").compute(model, REQUESTS, quick("memit", small_corpus, moment_weight=weight))
        for weight in (1e-3, 10.0)
    )
    assert light.diagnostic("disturbance").value > 2 * heavy.diagnostic("disturbance").value


def linear_network() -> LanguageModel:
    """GPT-2 whose attention writes nothing and whose MLPs get the same from every token: each adds W k + b, k fixed."""
    module, tokenizer = build_tiny("gpt2")
    for block in module.transformer.h:
        block.attn.c_proj.weight.zero_()
        block.mlp.c_fc.weight.zero_()
    return LanguageModel("linear", "0" * 64, module, tokenizer)


@pytest.mark.parametrize("name", ["memit", "emmet"])
def test_in_a_linear_network_nothing_is_missing_in_the_end(name: str) -> None:
    """sum over layers of R / (L - i) is R, Meng et al. 2023, equation 20."""
    changes = {"moment_weight": 1e-9} if name == "memit" else {"slack": 0.0}
    config = quick(name, "", layer=3, depth=3, second_moment="identity", **changes)
    edit = get_method(name).compute(linear_network(), (NEEDLE,), config)
    assert edit.diagnostic("gap left").value < 1e-4
    assert len(edit.weights) == 3
    sizes = [float((delta.matrix() @ edit.keys[delta.name][0]).norm()) for delta in edit.weights]
    assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-3)  # each layer a third


def test_silent_layers_are_passed_over() -> None:
    model = tiny_model("gpt2")
    names = [f"transformer.h.1.mlp.c_fc.{kind}" for kind in ("weight", "bias")]
    silent = model.view({name: torch.zeros_like(model.weight(name)) for name in names})
    config = quick("memit", "", layer=2, depth=2, second_moment="identity")
    edit = get_method("memit").compute(silent, (NEEDLE,), config)
    assert [delta.name for delta in edit.weights] == [model.architecture.key_weight_name(2)]
    with pytest.raises(ValueError, match="the MLPs of layers 1 to 1 are silent"):
        get_method("memit").compute(silent, (NEEDLE,), dataclasses.replace(config, layer=1, depth=1))


def test_layers_begin_where_the_model_does() -> None:
    assert quick("memit", "", layer=1, depth=4).layers == (0, 1)
    assert quick("memit", "", layer=7, depth=3).layers == (5, 6, 7)


def test_protected_keys_are_those_of_the_edits_still_there(small_corpus: str) -> None:
    """K_p is a function of the active edits: without one of them, it is as if that had never been made."""
    model = tiny_model("gpt2")
    config = quick("alphaedit", small_corpus)
    first, second = (get_method("alphaedit").compute(model, (request,), config) for request in (NEEDLE, TOWER))
    name = first.weights[0].name
    both = past_keys([first, second], name, model.d_mlp)
    torch.testing.assert_close(both, torch.cat([first.keys[name], second.keys[name]]).T.double())
    assert torch.equal(past_keys([second], name, model.d_mlp), second.keys[name].T.double())
    assert past_keys([], name, model.d_mlp).shape == (model.d_mlp, 0)


def test_a_spectrum_is_kept_and_a_damaged_one_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    moment = Moment(old.T @ old / 20, 20, 1.0, "old keys")
    values, vectors = spectrum(moment, tmp_path)
    torch.testing.assert_close(vectors @ values.diag() @ vectors.T, moment.matrix.double())
    decompose = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("decomposed again"))
    again = spectrum(moment, tmp_path)
    assert torch.equal(again[0], values)
    assert torch.equal(again[1], vectors)
    monkeypatch.setattr(torch.linalg, "eigh", decompose)
    (file,) = (tmp_path / "spectra").iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    torch.testing.assert_close(spectrum(moment, tmp_path)[1], vectors)
    assert torch.equal(spectrum(moment, tmp_path)[1], vectors)


def disturbed(model: LanguageModel, edit: Edit, keys: Edit) -> float:
    """How far `edit` moves what the layers make of the keys of another edit."""
    return sum(float((delta.matrix() @ keys.keys[delta.name].T).norm()) for delta in edit.weights)


def test_alphaedit_keeps_the_edits_it_is_told_of(small_corpus: str) -> None:
    model = tiny_model("gpt2")
    config = quick("alphaedit", small_corpus, null_threshold=1.0)
    method = get_method("alphaedit")
    first = method.compute(model, (NEEDLE, DAVIS), config)
    view = apply_edits(model, [first])
    blind = method.compute(view, (TOWER,), config)
    aware = method.compute(view, (TOWER,), config, active=[first])
    assert disturbed(model, aware, first) < 0.5 * disturbed(model, blind, first)
    assert aware.diagnostic("protected keys").value == 2
    assert blind.diagnostic("protected keys").value == 0


def test_rome_keeps_its_key_for_the_edits_after_it(small_corpus: str) -> None:
    edit = get_method("rome").compute(tiny_model("gpt2"), (NEEDLE,), quick("rome", small_corpus))
    (kept,) = edit.keys.values()
    assert float(kept.norm()) == pytest.approx(edit.diagnostic("key norm").value, rel=1e-4)


def test_a_row_of_edits_shares_the_unedited_second_moment(small_corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    config = quick("memit", small_corpus)
    first = get_method("memit").compute(model, (NEEDLE,), config)
    view = apply_edits(model, [first])
    monkeypatch.setattr("editing.parts.moments.estimate", lambda *_, **__: pytest.fail("estimated again"))
    assert get_method("memit").compute(view, (TOWER,), config, active=[first]).weights
