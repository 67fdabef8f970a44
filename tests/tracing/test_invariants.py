"""What must hold exactly (Meng et al. 2022, section 2.1), and what must not change a result."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from facts import Fact
from facts.watch import Cancelled, Watch
from models import LanguageModel
from models.forwards.hooks import run_hooked
from tests.tiny import FAMILIES, HYBRIDS, build_tiny, tiny_model
from tracing import NoiseLevel, TraceConfig, TraceResult, causal_trace, measure_noise, trace_sites
from tracing.config import Direction
from tracing.corruption import draw_noise
from tracing.engine import engine, memory, plan
from tracing.engine.engine import Engine, TracedPrompt
from tracing.engine.memory import TraceMemoryError
from tracing.engine.probe import EngineName
from tracing.engine.question import ask
from tracing.engine.tracer import refine_trace, trace_all
from tracing.sites import SITES, TraceSite

FACT = Fact.from_prompt("in the city the Space Needle is", "Space Needle")
LEVEL = NoiseLevel(0.4, "a test")
START = 3  # its subject follows three tokens at least


def configs(samples: int = 2, **changes: int) -> list[TraceConfig]:
    return [TraceConfig(site=site, window=1, samples=samples, **changes) for site in SITES]  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_cells(family: str) -> None:
    asked = configs()[:3] if family in HYBRIDS else configs()
    results = trace_sites(tiny_model(family), FACT, asked, level=LEVEL)
    answer_ids = ask(tiny_model(family), FACT).answer_ids
    for site, result in results.items():
        low = result.corrupted[:, None]
        if site == "attn_heads":
            low = low[..., None]
        assert result.subject_span[0] >= START
        for pos in range(result.subject_span[0]):  # nothing is corrupted there
            assert (result.restored[:, pos] == low).all()
        assert (result.restored[:, :-1, -1] == low).all()  # the last layer's other positions predict nothing
        if site == "resid_post" and len(answer_ids) == 1:  # the others are predicted behind the prompt
            assert (result.restored[:, -1, -1] == np.float32(result.clean)).all()
    # In the residual stream the subject's own state right behind the embedding matters, so the map is not all constant.
    assert np.ptp(results["resid_post"].restored) > 1e-4


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", SITES)
def test_nothing_corrupted_restores_everything(site: TraceSite, direction: Direction) -> None:
    """A level of 0 leaves every run the clean one, to rounding (tracing through the engine: a trace refuses it)."""
    model = tiny_model("gemma2")
    question = ask(model, FACT)
    clean = model.embedding(question.ids[question.subject.start : question.subject.stop])[None]
    config = TraceConfig(site=site, samples=1, direction=direction)
    engine = Engine(
        model, [TracedPrompt(question, clean, range(question.n_prompt), None)], [config], "packed", run_hooked
    )
    ((found,),) = engine.run(range(1), lambda _: None)
    logs = found.restored[0][..., 0, 0]
    torch.testing.assert_close(logs, found.clean[0, 0].expand_as(logs), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.corrupted[:, 0, 0], found.clean[:1, 0], atol=1e-5, rtol=0)


def test_noise_without_a_finite_run_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no finite probability \(noise 1e\+38, .*choose less noise"):
        causal_trace(tiny_model("gpt2"), FACT, TraceConfig(noise=1e38, samples=1), level=LEVEL)


def test_noise_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves the subject's embeddings as they are; choose more noise"):
        causal_trace(tiny_model("gpt2"), FACT, TraceConfig(noise=0.0), level=LEVEL)


@pytest.mark.parametrize("family", ["gpt2", "falcon", "mpt"])
def test_exact_cells_of_noising(family: str) -> None:
    for site in SITES:
        config = TraceConfig(site=site, samples=2, direction="noising")
        result = causal_trace(tiny_model(family), FACT, config, level=LEVEL)
        clean = np.float32(result.clean)
        assert (result.restored[:, : result.subject_span[0]] == clean).all()
        assert (result.restored[:, :-1, -1] == clean).all()
        if site == "resid_post":
            assert (result.restored[:, -1, -1] == result.corrupted).all()
        assert (result.indirect_effect[: result.subject_span[0]] == 0).all()


def test_a_model_of_one_layer_has_only_its_last() -> None:
    model = LanguageModel("one layer", "0", *build_tiny("llama", num_hidden_layers=1))
    results = trace_sites(model, FACT, configs(), level=LEVEL)
    assert (results["resid_post"].restored[:, -1, 0] == np.float32(results["resid_post"].clean)).all()
    assert (results["mlp_out"].restored[:, :-1, 0] == results["mlp_out"].corrupted[:, None]).all()
    assert np.isfinite(results["mlp_out"].restored).all()


def test_half_precision_is_traced_and_scored_in_float32() -> None:
    module, tokenizer = build_tiny("gpt2")
    half = LanguageModel("half", "0", module.to(torch.bfloat16), tokenizer)
    result = causal_trace(half, FACT, TraceConfig(samples=2), level=LEVEL)
    exact = causal_trace(tiny_model("gpt2"), FACT, TraceConfig(samples=2), level=LEVEL)
    assert result.engine == "packed"
    assert result.answer == exact.answer
    np.testing.assert_allclose(result.restored, exact.restored, atol=0.05)
    assert len(set(result.restored.ravel().tolist())) > 8  # not on bfloat16's coarse grid


@pytest.mark.parametrize("way", ["packed", "replay"])
@pytest.mark.parametrize("site", SITES)
def test_the_batch_size_changes_nothing(site: TraceSite, way: EngineName) -> None:
    model = tiny_model("gpt_neo")
    whole, *others = [
        causal_trace(model, FACT, TraceConfig(site=site, window=3, samples=3, batch_size=size), level=LEVEL, engine=way)
        for size in (None, 1, 7, 1000)
    ]
    for other in others:
        np.testing.assert_allclose(other.restored, whole.restored, atol=1e-6)
        np.testing.assert_allclose(other.corrupted, whole.corrupted, atol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 0.7, 100.0])
def test_packing_changes_nothing(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One suffix a pass, several, all of them."""
    model, config = tiny_model("mistral"), TraceConfig(site="attn_out", window=3, samples=2)
    usual = causal_trace(model, FACT, config, level=LEVEL)
    monkeypatch.setattr(plan, "PACK_LIMIT", limit)
    monkeypatch.setattr(plan, "PASS_POSITIONS", 0)
    np.testing.assert_allclose(causal_trace(model, FACT, config, level=LEVEL).restored, usual.restored, atol=1e-6)


def test_the_number_of_threads_changes_nothing() -> None:
    model, config = tiny_model("gpt2"), TraceConfig(samples=2)
    one = causal_trace(model, FACT, config, level=LEVEL)
    torch.set_num_threads(2)
    try:
        two = causal_trace(model, FACT, config, level=LEVEL)
    finally:
        torch.set_num_threads(1)
    np.testing.assert_allclose(two.restored, one.restored, atol=1e-6)


def test_sites_traced_together_equal_sites_traced_alone() -> None:
    model = tiny_model("llama")
    together = trace_sites(model, FACT, configs(), level=LEVEL)
    for config in configs():
        alone = causal_trace(model, FACT, config, level=LEVEL)
        np.testing.assert_array_equal(together[config.site].restored, alone.restored)


def test_positions_asked_for_equal_those_of_the_whole_trace() -> None:
    model = tiny_model("gpt2")
    whole = causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL)
    part = causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL, positions=["last_subject", "last_token", 0])
    last_subject = whole.subject_span[1] - 1
    asked = [*range(whole.subject_span[0]), last_subject, len(whole.tokens) - 1]
    np.testing.assert_allclose(part.restored[:, asked], whole.restored[:, asked], atol=1e-6)
    others = sorted(set(range(len(whole.tokens))) - set(asked))
    assert np.isnan(part.restored[:, others, :-1]).all()
    assert part.peak() == whole.peak()
    with pytest.raises(ValueError, match="was not measured"):
        part.peak(others[0])
    with pytest.raises(ValueError, match="position 99"):
        causal_trace(model, FACT, TraceConfig(samples=2), level=LEVEL, positions=[99])


def test_more_samples_refine_fewer() -> None:
    five, two = draw_noise(5, 3, 32, seed=4), draw_noise(2, 3, 32, seed=4)
    assert torch.equal(five[:2], two)
    assert not torch.equal(five, draw_noise(5, 3, 32, seed=5))
    assert abs(float(draw_noise(200, 3, 32, seed=0).std()) - 1) < 0.02
    model = tiny_model("gpt2")
    many, few = (causal_trace(model, FACT, TraceConfig(samples=n), level=LEVEL) for n in (4, 2))
    np.testing.assert_allclose(many.restored[:2], few.restored, atol=1e-6)


def test_the_same_seed_gives_the_same_trace() -> None:
    model, config = tiny_model("opt"), TraceConfig(samples=2, seed=3)
    first, second = (causal_trace(model, FACT, config, level=LEVEL) for _ in range(2))
    np.testing.assert_array_equal(first.restored, second.restored)
    other = causal_trace(model, FACT, TraceConfig(samples=2, seed=4), level=LEVEL)
    assert not np.array_equal(first.corrupted, other.corrupted)


def test_the_noise_is_measured_on_embedding_outputs() -> None:
    model = tiny_model("gemma")  # scales its embeddings
    subjects = ["Space Needle", "Rome", "Rome"]  # duplicates count, as in the paper's code
    ids = [token for subject in subjects for token in model.tokenize(subject, special_tokens=False)]
    level = measure_noise(model, subjects)
    assert level.sigma == pytest.approx(float(model.embedding(ids).std()), rel=1e-5)
    assert level.source == f"the embeddings of 3 subjects ({len(ids)} tokens)"
    whole = measure_noise(model)
    assert whole.sigma == pytest.approx(float(model.embedding(torch.arange(model.d_vocab)).std()), rel=1e-5)
    result = causal_trace(model, FACT, TraceConfig(samples=1, noise=2.0))
    assert result.noise_std == pytest.approx(2 * whole.sigma)
    assert "vocabulary" in result.noise_source
    with pytest.raises(ValueError, match="hold 1 tokens"):
        measure_noise(model, ["x"])


def edited(model: LanguageModel) -> LanguageModel:
    name = model.architecture.key_weight_name(1)
    return model.view({name: model.weight(name) * 1.5})


def in_threads(*works: Callable[[], None]) -> list[BaseException]:
    """Run all at once; what they raised."""
    raised: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_threads_tracing_and_generating_get_what_they_would_alone() -> None:
    """Two threads trace one model, one its edited view, and one generates, through the lock and past it."""
    base = tiny_model("gpt_neo")
    view = edited(base)
    config = TraceConfig(site="mlp_out", window=3, samples=2, batch_size=16)
    solo = {name: causal_trace(model, FACT, config, level=LEVEL) for name, model in (("base", base), ("view", view))}
    text, ids = base.generate([FACT.prompt], 4), torch.tensor([base.encode(FACT.prompt)])
    logits = base.logits(ids)
    assert not np.array_equal(solo["base"].restored, solo["view"].restored)
    assert solo["base"].revision != solo["view"].revision
    wrong: list[str] = []

    def trace(name: str, model: LanguageModel) -> Callable[[], None]:
        def work() -> None:
            for _ in range(10):
                found = causal_trace(model, FACT, config, level=LEVEL).restored
                if not np.array_equal(found, solo[name].restored):
                    wrong.append(name)

        return work

    def generate() -> None:
        for _ in range(40):
            if base.generate([FACT.prompt], 4) != text:
                wrong.append("generate")

    def read() -> None:
        for _ in range(40):
            if not torch.equal(base.logits(ids), logits):
                wrong.append("logits")

    raised = in_threads(trace("base", base), trace("base", base), trace("view", view), generate, read)
    assert (raised, wrong) == ([], [])


def test_a_forward_past_the_lock_is_left_alone() -> None:
    """Hooks of a trace hang on the module, but act in their own thread only."""
    model, config = tiny_model("llama"), TraceConfig(samples=2, batch_size=4)
    ids = torch.tensor([model.encode(FACT.prompt)])
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits
    solo = causal_trace(model, FACT, config, level=LEVEL)
    wrong: list[str] = []

    def bare() -> None:
        for _ in range(100):
            with torch.no_grad():
                if not torch.equal(model.module(input_ids=ids).logits, logits):
                    wrong.append("forward")

    def trace() -> None:
        for _ in range(15):
            if not np.array_equal(causal_trace(model, FACT, config, level=LEVEL).restored, solo.restored):
                wrong.append("trace")

    assert (in_threads(bare, trace), wrong) == ([], [])


def test_tracing_leaves_the_weights_alone() -> None:
    model = tiny_model("phi")
    before = model.weights_digest()
    trace_sites(model, FACT, configs())
    assert model.weights_digest() == before


def test_progress_counts_runs_and_cancelling_takes_effect_within_one_pass() -> None:
    model, config = tiny_model("gpt2"), TraceConfig(samples=3, batch_size=4)
    seen: list[tuple[int, int]] = []
    result = causal_trace(model, FACT, config, watch=Watch(lambda done, total, _: seen.append((done, total))))
    runs = (len(result.tokens) - result.subject_span[0]) * (model.n_layers - 1)  # of one sample
    assert seen == [(runs, 3 * runs), (2 * runs, 3 * runs), (3 * runs, 3 * runs)]
    after: list[int] = []
    with pytest.raises(Cancelled):
        causal_trace(
            model,
            FACT,
            config,
            watch=Watch(lambda done, *_: after.append(done), lambda: len(after) == 2),
        )
    assert after == [runs, 2 * runs]
    with pytest.raises(Cancelled):
        causal_trace(model, FACT, config, watch=Watch(cancelled=lambda: True))


def test_a_refined_trace_is_the_trace_of_so_many_samples() -> None:
    model, config = tiny_model("phi3"), TraceConfig(site="attn_out", window=2, samples=4)
    seen: list[tuple[int, int]] = []
    steps = list(
        refine_trace(model, FACT, config, level=LEVEL, watch=Watch(lambda done, total, _: seen.append((done, total))))
    )
    assert [step.config.samples for step in steps] == [1, 2, 3, 4]
    for step in steps:
        whole = causal_trace(model, FACT, step.config, level=LEVEL)
        np.testing.assert_allclose(step.restored, whole.restored, atol=1e-6)
        np.testing.assert_allclose(step.corrupted, whole.corrupted, atol=1e-6)
        np.testing.assert_allclose(step.by("kl").restored, whole.by("kl").restored, atol=1e-5)
    assert seen[-1][0] == seen[-1][1] == len(seen) // 2 * 10  # of 9 and 1 runs in turn: the last layer's is known
    assert [step.config.samples for step in refine_trace(model, FACT, config, level=LEVEL, step=3)] == [3, 4]


def test_the_first_sample_is_shown_before_the_others_are_run() -> None:
    model, shared = tiny_model("phi3"), {"window": 2, "samples": 4}
    configs = [TraceConfig(site="attn_out", **shared), TraceConfig(site="mlp_out", **shared)]
    seen: list[int] = []
    shown: list[tuple[int, tuple[TraceResult, ...]]] = []
    watch = Watch(lambda done, total, _: seen.append(done))
    whole = trace_all(
        model, FACT, configs, level=LEVEL, first=lambda early: shown.append((seen[-1], early)), watch=watch
    )
    ((done, early),) = shown
    assert 4 * done == seen[-1]  # a quarter of the runs
    for first, result, config in zip(early, whole, configs, strict=True):
        assert (first.config.samples, result.config) == (1, config)
        np.testing.assert_allclose(first.restored, result.restored[:1], atol=1e-6)
        np.testing.assert_allclose(result.restored, causal_trace(model, FACT, config, level=LEVEL).restored, atol=1e-6)


def test_a_trace_is_refined_until_its_intervals_are_narrow() -> None:
    model, config = tiny_model("phi3"), TraceConfig(samples=6)
    steps = list(refine_trace(model, FACT, config, level=LEVEL, width=10.0))
    assert [step.config.samples for step in steps] == [1, 2, 3]  # two samples have no interval; any three satisfy 10
    low, high = steps[-1].ci()
    width = float(np.nanmax(high - low)) / 4
    last = list(refine_trace(model, FACT, config, level=LEVEL, width=width))[-1]
    low, high = last.ci()
    assert float(np.nanmax(high - low)) <= width or last.config.samples == 6
    assert last.config.samples > 3
    with pytest.raises(ValueError, match="width is -1"):
        next(refine_trace(model, FACT, config, width=-1.0))
    ablation = TraceConfig(corruption="zero")
    assert len(list(refine_trace(model, FACT, ablation))) == 1


def test_too_little_memory_is_said_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to")

    monkeypatch.setattr(engine, "sweep_logits", full)
    with pytest.raises(
        TraceMemoryError, match=r"out of memory in a forward of 30 rows of \d+ positions: about 0\.0 GiB are needed and"
    ):
        causal_trace(model, FACT, TraceConfig(batch_size=30), level=LEVEL)
    with pytest.raises(TraceMemoryError, match=r"set batch_size to 15 or less"):
        causal_trace(model, FACT, TraceConfig(batch_size=30), level=LEVEL)
    with pytest.raises(TraceMemoryError, match="trace fewer positions, or a shorter prompt"):
        causal_trace(model, FACT, TraceConfig(batch_size=1), level=LEVEL)


def test_passes_are_as_large_as_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2")
    one = memory.Pass(1, 28, 34, 7)
    monkeypatch.setattr(memory, "free_memory", lambda device, enough=None: 2 * 5 * one.bytes(model))
    assert one.rows_that_fit(model) == 5  # half of what is free
    monkeypatch.setattr(memory, "free_memory", lambda device, enough=None: 0)
    assert one.rows_that_fit(model) == 1
    monkeypatch.undo()
    assert one.rows_that_fit(model) <= memory.CPU_POSITIONS // 28
    assert memory.free_memory(torch.device("cpu")) > 2**20


def test_the_answer_is_the_models_own_or_the_given_one() -> None:
    model = tiny_model("qwen2")
    own = causal_trace(model, FACT, TraceConfig(samples=1), level=LEVEL)
    ids = model.encode(FACT.prompt)
    assert own.answer_ids == (int(model.logits(torch.tensor([ids]))[0, -1].argmax()),)
    assert own.answer_is_greedy
    given = Fact.from_prompt(FACT.prompt, FACT.subject, "Rome")
    result = causal_trace(model, given, TraceConfig(samples=1), level=LEVEL)
    assert result.answer == "Rome"
    assert not result.answer_is_greedy
    assert result.predicted == own.predicted
    assert result.tokens == own.tokens


def test_the_occurrence_of_a_repeated_subject_is_the_templates() -> None:
    model = tiny_model("gpt2")
    second = Fact("Rome", "Rome was not {}", "")
    result = causal_trace(model, second, TraceConfig(samples=1), level=LEVEL)
    assert result.subject_span[0] >= 3


def test_what_does_not_fit_is_said() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="window is 5, but tiny gpt2 has 4 layers"):
        causal_trace(model, FACT, TraceConfig(site="mlp_out", window=5))
    with pytest.raises(ValueError, match="at least one TraceConfig"):
        trace_sites(model, FACT, [])
    with pytest.raises(ValueError, match="repeat"):
        trace_sites(model, FACT, [TraceConfig(), TraceConfig(seed=1)])
    with pytest.raises(ValueError, match=r"differ in seed \(0, 1\); sites traced together share one corruption"):
        trace_sites(model, FACT, [TraceConfig(), TraceConfig(site="mlp_out", seed=1)])
    with pytest.raises(ValueError, match="the other answer 'Rome' begins with the answer's own first token"):
        causal_trace(model, Fact.from_prompt(FACT.prompt, FACT.subject, "Rome"), TraceConfig(against="Rome"))
    with pytest.raises(ValueError, match="takes at most 64"):
        causal_trace(model, Fact("Rome", "{} is " + "very " * 100, ""))
