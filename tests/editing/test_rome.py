"""The identities of a rank-one edit, on every family, and agreement with the slow oracle."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from editing import METHODS, RomeConfig, apply_edits
from editing.configs import make_config
from editing.edit import Edit
from editing.methods.rome import RankOneConfig, RRomeConfig
from editing.parts.contexts import make_contexts
from editing.parts.keys import fact_position, make_batch, mean_key
from editing.parts.moments import identity
from editing.parts.rank_one import key_direction, rank_one_update
from editing.parts.values import read_start
from facts import EditRequest, Fact
from facts.watch import Cancelled, Watch
from models import EDITABLE_FAMILIES, LanguageModel, as_out_in
from tests.oracle.r_rome import r_rome
from tests.oracle.rome import Settings, Text, rome
from tests.tiny import tiny_model

REQUEST = EditRequest(Fact("Space Needle", "The {} is located in the city of", "Seattle"), "Paris")
LAYER = 1
FAST = RRomeConfig(LAYER, steps=6, prefixes=4, second_moment="identity")
SEARCHED = dict(
    steps=5, prefixes=4, moment_tokens=400, weight_decay=0.03, kl_factor=0.5, ridge=0.1, norm_limit=0.08
)  # fmt: skip
CORPUS = "The Space Needle is a tower.\nParis is the capital of France, and Rome of Italy.\nMiles Davis plays.\n" * 8


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A text file for the second moment, and a cache of its own."""
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus.txt"
    path.write_text(CORPUS, encoding="utf-8")
    return str(path)


def compute(model: LanguageModel, config: RankOneConfig = FAST, request: EditRequest = REQUEST) -> Edit:
    return METHODS["r-rome" if isinstance(config, RRomeConfig) else "rome"].compute(model, [request], config)


def starting_point(model: LanguageModel, config: RankOneConfig = FAST):
    contexts = make_contexts(model, config.prefixes, config.seed)
    batch = make_batch(model, REQUEST.fact, REQUEST.target_new, contexts)
    return batch, read_start(model, config.layer, batch)


def affine(model: LanguageModel, layer: int, key: torch.Tensor) -> torch.Tensor:
    """What the down projection makes of a key: W k + b, in float64."""
    module = model.key_module(layer)
    weight = as_out_in(module, model.weight(model.architecture.key_weight_name(layer))).double()
    bias = getattr(module, "bias", None)
    return weight @ key + (0 if bias is None else bias.double())


def test_rank_one_update_by_hand() -> None:
    # C = diag(1, 4) and k = (2, 4): C^-1 k = (2, 1), u = (2, 1)/sqrt 5, u.k = 8/sqrt 5, rows = (3, 5) sqrt 5 / 8
    moment = dataclasses.replace(identity(2), matrix=torch.diag(torch.tensor([1.0, 4.0])))
    key = torch.tensor([2.0, 4.0], dtype=torch.float64)
    direction = key_direction(key, moment, ridge=0.0)
    torch.testing.assert_close(direction, torch.tensor([2.0, 1.0], dtype=torch.float64) / 5**0.5)
    rows, cols = rank_one_update(torch.tensor([3.0, 5.0], dtype=torch.float64), key, direction)
    torch.testing.assert_close(rows @ cols, torch.tensor([[0.75, 0.375], [1.25, 0.625]], dtype=torch.float64))


def test_update_disturbs_usual_keys_least() -> None:
    """Meng et al., equation 2: of all changes mapping k* to v*, E |delta k|^2 = tr(delta C delta^T) is smallest."""
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    moment = dataclasses.replace(identity(4), matrix=(keys.T @ keys / 50).float())
    key, residual = keys[0], torch.randn(3, generator=generator, dtype=torch.float64)
    rows, cols = rank_one_update(residual, key, key_direction(key, moment, 0.0))
    ours = (keys @ (rows @ cols).T).square().sum()
    for _ in range(20):
        other = rows @ cols + torch.outer(torch.ones(3).double(), torch.randn(4, generator=generator).double())
        fixed = other + torch.outer(residual - other @ key, key) / (key @ key)
        torch.testing.assert_close(fixed @ key, residual)
        assert (keys @ fixed.T).square().sum() >= ours * (1 - 1e-5)


def test_orthogonal_key_and_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        rank_one_update(torch.ones(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("family", EDITABLE_FAMILIES)
def test_edited_weight_maps_the_key_to_the_value(family: str, corpus: str) -> None:
    model = tiny_model(family)
    config = dataclasses.replace(FAST, second_moment="estimate", corpus=corpus, moment_tokens=200)
    edit = compute(model, config)
    _, start = starting_point(model, config)
    key = mean_key(start.keys[:-1])
    value = affine(apply_edits(model, [edit]), LAYER, key)
    assert value.norm().item() == pytest.approx(edit.diagnostic("value norm").value, rel=1e-4)


@pytest.mark.parametrize("family", EDITABLE_FAMILIES)
def test_computing_and_applying_write_nothing_and_undo_is_exact(family: str) -> None:
    model = tiny_model(family)
    before = model.weights_digest()
    ids = torch.tensor([model.encode(REQUEST.fact.prompt)])
    logits = model.logits(ids)
    random_state = torch.get_rng_state()
    edit = compute(model)
    edited = apply_edits(model, [edit])
    assert not torch.equal(edited.logits(ids), logits)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.weights_digest() == before
    assert torch.equal(model.logits(ids), logits)
    without = apply_edits(model, [])
    assert without.weights_digest() == before
    assert torch.equal(without.logits(ids), logits)
    assert edited.weights_digest() != before
    shared = sum(
        ours.data_ptr() == theirs.data_ptr()
        for ours, theirs in zip(model.module.parameters(), edited.module.parameters(), strict=True)
    )
    assert shared == sum(1 for _ in model.module.parameters()) - 1


@pytest.mark.parametrize("family", EDITABLE_FAMILIES)
def test_the_search_makes_the_target_likelier(family: str) -> None:
    edit = compute(tiny_model(family))
    assert edit.losses[-1].target_nll < edit.losses[0].target_nll
    # Not "after": in a random model the keys of other tokens are no further away than those of other contexts.
    assert edit.diagnostic("p(new) at v*").value > edit.diagnostic("p(new) before").value


ORACLE_FAMILIES = pytest.mark.parametrize("family", ["gpt2", "gpt_neo", "llama", "opt", "gemma3_text", "olmo2"])


def oracle_arguments(model: LanguageModel, config: RankOneConfig) -> tuple[Any, ...]:
    """(module, mlp, down projection, texts, essence, C, settings) of what the tests compute."""
    batch, start = starting_point(model, config)
    texts = [Text(row.ids, row.lookup, row.n_prompt) for row in batch.rows]
    length = start.value_norm if model.architecture.post_norm else start.residual_norm
    reference = length if config.limit_reference == "residual" else start.value_norm
    public_code = config.compat.endswith("-code")
    unit = 1.0 if public_code else length / model.d_model**0.5
    settings = Settings(
        config.steps, config.learning_rate * unit, config.kl_factor, config.weight_decay, config.norm_limit * reference,
        reference, config.stop_loss, config.ridge, public_code,
    )  # fmt: skip
    keys: list[torch.Tensor] = []
    down = model.key_module(LAYER)
    mlp = model.module.get_submodule(model.architecture.mlp_path(LAYER))
    handle = down.register_forward_hook(lambda _, inputs, __: keys.append(inputs[0].reshape(-1, model.d_mlp)))
    with torch.no_grad():
        for line in CORPUS.splitlines():
            model.module(input_ids=torch.tensor([model.tokenize(line)]), use_cache=False)
    handle.remove()
    every = torch.cat(keys).double()[:400]
    return model.module, mlp, down, texts[:-1], texts[-1], every.T @ every / len(every), settings


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("form", ["rome", "rome-code"])
@ORACLE_FAMILIES
def test_rome_agrees_with_the_slow_oracle(family: str, form: str, corpus: str) -> None:
    model = tiny_model(family)
    config = RomeConfig(LAYER, compat=form, **SEARCHED, corpus=corpus)
    expected = rome(*oracle_arguments(model, config))
    assert distance(compute(model, config).weights[0].matrix(), expected) < 1e-4


@pytest.mark.parametrize("form", ["r-rome", "r-rome-code"])
@ORACLE_FAMILIES
def test_r_rome_agrees_with_its_authors_code(family: str, form: str, corpus: str) -> None:
    """On u, v* and the change: the residual is delta + v of the bare prompt - mean v, all keys are the mean's."""
    model = tiny_model(family)
    # 400 tokens leave C singular: with less of a ridge its float32 rounding, 5e-7, grows beyond the bound
    config = RRomeConfig(LAYER, compat=form, **SEARCHED | {"ridge": 1.0}, corpus=corpus)
    expected = r_rome(*oracle_arguments(model, config))
    edit = compute(model, config)
    assert distance(edit.weights[0].cols[0], expected.u) < 1e-5
    assert distance(edit.weights[0].matrix(), expected.change) < 1e-5
    key = mean_key(starting_point(model, config)[1].keys[:-1])
    target = affine(model, LAYER, key) + edit.weights[0].matrix().double() @ key
    assert distance(target, expected.target) < 1e-5


def test_square_weights_are_not_transposed() -> None:
    """d_mlp = d_model: orientation cannot be told from the shape."""
    from models.language_model import LanguageModel as Model
    from tests.tiny import build_tiny

    for family, changes in (("gpt2", {"n_inner": 32}), ("gpt_neo", {"intermediate_size": 32})):
        module, tokenizer = build_tiny(family, **changes)
        model = Model(family, "0" * 64, module, tokenizer)
        assert model.d_mlp == model.d_model == 32
        edit = compute(model)
        _, start = starting_point(model)
        key = mean_key(start.keys[:-1])
        value = affine(apply_edits(model, [edit]), LAYER, key)
        change = value - affine(model, LAYER, key)
        torch.testing.assert_close(
            change.float(), (edit.weights[0].matrix().double() @ key).float(), rtol=1e-3, atol=1e-4
        )
        assert value.norm().item() == pytest.approx(edit.diagnostic("value norm").value, rel=1e-3)


def test_same_seed_same_edit_and_another_seed_another(corpus: str) -> None:
    model = tiny_model("gpt2")
    config = dataclasses.replace(FAST, second_moment="estimate", corpus=corpus, moment_tokens=200)
    first = compute(model, config)
    torch.rand(7)  # the global generator plays no part
    assert compute(model, config).digest == first.digest
    assert compute(model, dataclasses.replace(config, seed=1)).digest != first.digest


def test_identity_moment_is_labelled() -> None:
    edit = compute(tiny_model("gpt2"))
    assert "C = I" in edit.diagnostic("second moment").help
    assert edit.diagnostic("condition number").value == 1.0
    key = mean_key(starting_point(tiny_model("gpt2"))[1].keys[:-1])
    torch.testing.assert_close(edit.weights[0].cols[0].double(), key / key.norm(), rtol=1e-5, atol=1e-6)


def test_a_bound_search_says_so() -> None:
    model = tiny_model("gpt2")
    bound = compute(model, dataclasses.replace(FAST, norm_limit=0.01))
    used = bound.diagnostic("norm limit used")
    assert used.value == pytest.approx(1.0, rel=1e-4)
    assert "norm limit was reached" in used.warning
    assert used.warning in bound.warnings
    free = compute(model, dataclasses.replace(FAST, norm_limit=100.0))
    assert free.diagnostic("norm limit used").value < 1
    assert not free.diagnostic("norm limit used").warning


def test_cancelling_at_every_step_leaves_no_trace() -> None:
    model = tiny_model("gpt2")
    before = model.weights_digest()
    for allowed in range(FAST.steps):
        asked = iter([False] * allowed)
        with pytest.raises(Cancelled):
            METHODS["r-rome"].compute(
                model, [REQUEST], FAST, watch=Watch(cancelled=lambda asked=asked: next(asked, True))
            )
    assert model.weights_digest() == before


def test_progress_rises_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    METHODS["r-rome"].compute(
        tiny_model("gpt2"), [REQUEST], FAST, watch=Watch(lambda done, total, stage: seen.append((done, total)))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (100, 100)


def test_two_threads_with_two_views_do_not_meet() -> None:
    model = tiny_model("gpt2")
    ids = torch.tensor([model.encode(REQUEST.fact.prompt)])
    targets = ("Paris", "Rome", "London")
    expected = {None: model.logits(ids)}
    for target in targets:
        request = dataclasses.replace(REQUEST, target_new=target)
        expected[target] = apply_edits(model, [compute(model, request=request)]).logits(ids)
    wrong: list[str | None] = []

    def work(target: str | None) -> None:
        for _ in range(3):
            edited = model
            if target is not None:
                edited = apply_edits(model, [compute(model, request=dataclasses.replace(REQUEST, target_new=target))])
            if not torch.equal(edited.logits(ids), expected[target]):
                wrong.append(target)

    threads = [threading.Thread(target=work, args=(target,)) for target in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("fact_token", ["subject_last", "subject_first", "last"])
def test_fact_token_chooses_the_position(fact_token: str) -> None:
    model = tiny_model("gpt2")
    contexts = ("{}", "The Space Needle again. {}")  # a context that names the subject itself
    batch = make_batch(model, REQUEST.fact, "Paris", contexts, fact_token)
    for row, before in zip(batch.rows, ("", "The Space Needle again. ", None), strict=True):
        prompt = REQUEST.fact.prompt if before is not None else "Space Needle is a"
        whole = (before or "") + prompt
        start = len((before or "") + prompt[: prompt.index("Space Needle")])
        ends = {
            "subject_first": start + 1,
            "subject_last": start + len("Space Needle"),
            "last": len(whole),
        }
        through = model.decode(list(row.ids[: row.lookup + 1]))
        assert whole.startswith(through.rstrip())
        assert len(model.decode(list(row.ids[: row.lookup]))) < ends[fact_token] <= len(through)


def test_a_numbered_fact_token_is_the_same_piece_of_the_subject_in_every_text() -> None:
    """In the bare prompt the numbers run through the subject; elsewhere the letters behind the token are the same."""
    model, contexts = tiny_model("gpt2"), ("{}", "The Space Needle again. {}", "(Space Needle) {}")
    first, last = (
        make_batch(model, REQUEST.fact, "Paris", contexts, name) for name in ("subject_first", "subject_last")
    )
    length = int(last.lookup[0] - first.lookup[0]) + 1
    assert length == 2
    for index in range(length):
        batch = make_batch(model, REQUEST.fact, "Paris", contexts, f"subject:{index}")
        assert int(batch.lookup[0]) == int(first.lookup[0]) + index
        assert fact_position(model, REQUEST.fact, f"subject:{index}") == int(batch.lookup[0])
        rests = []
        for row, end in zip(batch.rows, last.lookup.tolist(), strict=True):
            rests.append(model.decode(list(row.ids[row.lookup + 1 : end + 1])).strip())
        assert len(set(rests)) == 1, rests
    assert torch.equal(make_batch(model, REQUEST.fact, "Paris", contexts, f"subject:{length - 1}").lookup, last.lookup)


def test_a_subject_split_otherwise_elsewhere_keeps_the_letters() -> None:
    """ "␣S ha qu …" behind a blank, "Sha qu …" at the start of a text: there the index alone would be another piece."""
    model, fact = tiny_model("gpt2"), Fact("Shaquille O'Neal", "The man {} plays", "basketball")
    for index, pieces in ((0, (" S", "Sha")), (1, ("ha", "Sha")), (2, ("qu", "qu")), (3, ("i", "i"))):
        batch = make_batch(model, fact, "tennis", ("{}",), f"subject:{index}")  # the last row begins with the subject
        assert tuple(model.token_strings([row.ids[row.lookup]])[0] for row in batch.rows) == pieces


def test_a_token_that_the_subject_does_not_have_is_refused() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match=r"fact_token is 'subject:40', but the subject 'Space Needle' has \d+ tokens"):
        make_batch(model, REQUEST.fact, "Paris", ("{}",), "subject:40")
    for wrong in ("subject:", "subject:-1", "subject:1.5", "first"):
        with pytest.raises(ValueError, match=r"unknown fact_token .* subject_first, last, subject:K"):
            RomeConfig(layer=1, fact_token=wrong)
    assert RomeConfig(layer=1, fact_token="subject:1").fact_token == "subject:1"


def test_contexts_are_seeded_and_free_of_braces() -> None:
    model = tiny_model("gpt2")
    contexts = make_contexts(model, 7, seed=3)
    assert contexts == make_contexts(model.view(), 7, seed=3)  # drawn anew
    assert make_contexts(model, 7, seed=3) is contexts
    assert contexts != make_contexts(model, 7, seed=4)
    assert contexts[0] == "{}"
    assert len(set(contexts)) == 8
    assert all(context.count("{") == context.count("}") == 1 for context in contexts)


def test_contexts_that_do_not_fit_are_left_out() -> None:
    model = tiny_model("gpt2")
    batch = make_batch(model, REQUEST.fact, "Paris", ("{}", "so " * 60 + ". {}"))
    assert len(batch.rows) == 2


@pytest.mark.parametrize("config", [{"layer": 4}, {"layer": 99}])
def test_layer_out_of_range(config: dict[str, int]) -> None:
    model = tiny_model("gpt2")
    before = model.weights_digest()
    with pytest.raises(ValueError, match="is out of range: this model has layers 0 to 3"):
        compute(model, RomeConfig(**config))
    assert model.weights_digest() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": -1}, "layer is -1"),
        ({"steps": 0}, "steps is 0; expected a whole number of at least 1 and at most 500"),
        ({"prefixes": 1e-30}, "prefixes is 1e-30; expected a whole number of at least 0 and at most 50"),
        ({"prefixes": 2.0}, "prefixes is 2.0; expected a whole number"),
        ({"norm_limit": float("nan")}, "norm_limit is nan"),
        ({"compat": "paper"}, "choose from rome, rome-code"),
        ({"second_moment": "none"}, "choose from estimate, identity"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'"),
    ],
)
def test_config_is_checked(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RomeConfig(**{"layer": 0, **changes})  # type: ignore[arg-type]


def test_public_code_constants() -> None:
    config = RomeConfig(0, compat="rome-code")
    assert (config.prefixes, config.weight_decay, config.kl_factor, config.norm_limit) == (20, 0.5, 0.0625, 4.0)
    assert (config.steps, config.learning_rate) == (20, 0.5)
    assert config.limit_reference == "mlp_out"
    assert dataclasses.replace(RRomeConfig(0, compat="r-rome-code"), layer=1) == RRomeConfig(1, compat="r-rome-code")


def test_what_is_given_is_kept_also_where_it_equals_a_default() -> None:
    config = RomeConfig(0, compat="rome-code", weight_decay=0.0, steps=40)
    assert (config.weight_decay, config.steps, config.learning_rate) == (0.0, 40, 0.5)
    config = make_config(RRomeConfig, {"layer": 0, "compat": "r-rome-code", "ridge": 1e-4})
    assert (config.ridge, config.steps) == (1e-4, 20)
    assert (RomeConfig(0).weight_decay, RomeConfig(0).steps) == (0.0, 40)
    assert dataclasses.replace(config, steps=40).steps == 40


def test_missing_corpus_is_one_sentence() -> None:
    with pytest.raises(FileNotFoundError, match=r"no text file 'nowhere\.txt'"):
        compute(tiny_model("gpt2"), RomeConfig(LAYER, corpus="nowhere.txt"))


def test_prompt_longer_than_the_context() -> None:
    fact = Fact("Space Needle", "The {} is " + "very " * 80 + "tall and in", "Seattle")
    with pytest.raises(ValueError, match="tokens long"):
        compute(tiny_model("gpt2"), request=EditRequest(fact, "Paris"))


def test_disturbance_is_the_mean_change_over_the_corpus(corpus: str) -> None:
    """sqrt(E |delta k|^2) / |h|, here with every key of the corpus one by one."""
    model = tiny_model("gpt2")
    config = dataclasses.replace(FAST, second_moment="estimate", corpus=corpus, moment_tokens=10_000, ridge=0.1)
    edit = compute(model, config)
    keys: list[torch.Tensor] = []
    handle = model.key_module(LAYER).register_forward_hook(lambda _, inputs, __: keys.append(inputs[0].flatten(0, -2)))
    for line in CORPUS.splitlines():
        model.logits(torch.tensor([model.encode(line)]))
    handle.remove()
    changes = torch.cat(keys).double() @ edit.weights[0].matrix().double().T
    expected = changes.square().sum(-1).mean().sqrt().item() / edit.diagnostic("residual norm").value
    assert edit.diagnostic("disturbance").value == pytest.approx(expected, rel=1e-3)


def test_a_silent_mlp_is_refused_in_words() -> None:
    """With nothing coming into the down projection there is no key to change anything by."""
    base = tiny_model("gpt2")
    names = [f"transformer.h.{LAYER}.mlp.c_fc.{kind}" for kind in ("weight", "bias")]
    silent = base.view({name: torch.zeros_like(base.weight(name)) for name in names})
    with pytest.raises(ValueError, match="the MLP of layer 1 is silent at the edited token"):
        compute(silent)
