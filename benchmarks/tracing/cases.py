"""Random and pretrained models, the cases of the tracing benchmark, and the arithmetic of its floor."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks.tracing.contenders import Task
from facts import Fact
from facts.atlas import load_atlas
from models import LanguageModel
from models.forwards.hooks import run_hooked
from tracing.config import TraceConfig
from tracing.corruption import NoiseLevel, draw_noise, measure_noise
from tracing.engine.engine import Engine, TracedPrompt
from tracing.engine.plan import lay_out
from tracing.engine.probe import engine_for
from tracing.engine.question import Question, ask

LENGTH, SAMPLES = 12, 10
SIZES: dict[str, dict[str, Any]] = {
    "8x256": {"n_embd": 256, "n_layer": 8, "n_head": 8, "vocab_size": 8192, "n_positions": 256},
    "gpt2-small": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25, "vocab_size": 50257, "n_positions": 1024},
    "gpt-j": {"n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400, "n_positions": 2048, "rotary_dim": 64},
}
GPT2_SIZES = ("8x256", "gpt2-small", "gpt2-xl")
"""Those of GPT-2's family."""
SUBJECTS = {"subject 0-3": range(0, 3), "subject 5-8": range(5, 8)}
MUST: dict[tuple[str, str], float] = {
    ("subject 0-3", "states"): 6.0,
    ("subject 5-8", "states"): 14.0,
    ("subject 0-3", "mlp window 10"): 4.0,
    ("subject 5-8", "mlp window 10"): 11.0,
    ("subject 0-3", "attn window 10"): 4.0,
    ("subject 5-8", "attn window 10"): 11.0,
    ("subject 0-3", "severed mlp"): 11.0,
    ("subject 5-8", "severed mlp"): 25.0,
}
"""Times the ROME loop that the engine has to reach on a CPU in float32, at the size of GPT-2 small."""
MUST_SMALL = MUST | {("subject 5-8", "states"): 15.0}
"""The same for 8 layers of width 256."""
MUST_HALF = {"subject 0-3": 11.0, "subject 5-8": 25.0}
"""In bfloat16, against the loop in float32; states."""
MUST_RAGGED = 6.5
"""For real prompts of different lengths."""
MUST_REAL = 6.0
"""For states on a pretrained model, `FACT` and its prompt."""
MUST_FLOOR = 1.5
"""Times the floor that a map may take at most."""
MUST_SAMPLE = 0.15
"""Of a whole map, for its first sample."""
FACT = Fact("Eiffel Tower", "The {} is located in the city of", "Paris")
"""What is traced on a pretrained model: ten tokens on SmolLM2, and on Gemma with its first one."""
KINDS: dict[str, dict[str, Any]] = {
    "states": {"site": "resid_post"},
    "mlp window 10": {"site": "mlp_out", "window": 10, "window_centre": "rome-code"},
    "attn window 10": {"site": "attn_out", "window": 10, "window_centre": "rome-code"},
    "severed mlp": {"site": "resid_post", "severed": "mlp_out"},
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    size: str
    subject: str
    kind: str

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.size}, {self.subject}, {self.kind}"


def random_model(size: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A randomly initialised model of a size, the same every time, without a vocabulary worth the name."""
    family = "gptj" if size == "gpt-j" else "gpt2"
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = AutoConfig.for_model(family, **SIZES[size], **ids, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    # transformers draws initial weights from the global generator; its state is restored afterwards
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = "eager" if family == "gptj" else "sdpa"
        with torch.device(device):
            module = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    words = Tokenizer(tokenizer_models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    return LanguageModel(size, size, module, PreTrainedTokenizerFast(tokenizer_object=words, unk_token="a"))


def in_half(task: Task) -> Task:
    """The same task on the model's weights in bfloat16."""
    model = task.model
    module = copy.deepcopy(model.module).to(torch.bfloat16)
    return replace(task, model=LanguageModel(model.name, f"{model.revision} bf16", module, model.tokenizer))


def task_of(model: LanguageModel, case: Case) -> Task:
    """Its prompt (random tokens), its noise (three times the embeddings' spread) and the model's own answer."""
    generator = torch.Generator().manual_seed(3)
    ids = tuple(torch.randint(0, model.d_vocab, (LENGTH,), generator=generator).tolist())
    subject = SUBJECTS[case.subject]
    spread = float(model.embedding(torch.arange(1000)).float().std())
    noise = 3 * spread * draw_noise(SAMPLES, len(subject), model.d_model, seed=0)
    answer = int(model.logits(torch.tensor([ids]))[0, -1].argmax())
    return Task(model, ids, subject, noise, kind_config(case.kind, model), answer)


def real_tasks(model: LanguageModel, count: int) -> list[Task]:
    """States of facts spread over the atlas: real prompts of different lengths."""
    level = measure_noise(model, load_atlas().subjects())
    return [_task_of_fact(model, fact, level, TraceConfig(samples=SAMPLES)) for fact in spread_facts(count)]


def spread_facts(count: int) -> list[Fact]:
    """Facts spread over the atlas."""
    atlas = load_atlas()
    step = max(1, len(atlas.facts) // count)
    return [atlas.as_fact(entry) for entry in atlas.facts[::step][:count]]


def real_task(model: LanguageModel, kind: str) -> Task:
    """`FACT` on a pretrained model."""
    return _task_of_fact(model, FACT, measure_noise(model, load_atlas().subjects()), kind_config(kind, model))


def _task_of_fact(model: LanguageModel, fact: Fact, level: NoiseLevel, config: TraceConfig) -> Task:
    question = ask(model, fact)
    noise = 3 * level.sigma * draw_noise(SAMPLES, len(question.subject), model.d_model, seed=0)
    return Task(model, question.ids[: question.n_prompt], question.subject, noise, config, question.answer_ids[0])


def kind_config(kind: str, model: LanguageModel, samples: int = SAMPLES) -> TraceConfig:
    """The setting of that name, its window clipped to the model's layers."""
    chosen = dict(KINDS[kind])
    chosen["window"] = min(chosen.get("window", 1), model.n_layers)
    return TraceConfig(samples=samples, **chosen)


def engine_of(task: Task) -> Engine:
    """The project's engine on the same task."""
    question = Question(task.ids, len(task.ids), (task.answer,), task.subject)
    clean = task.model.embedding(task.ids[task.subject.start : task.subject.stop]).float().cpu()
    asked = TracedPrompt(question, (clean + task.noise).to(task.model.device), range(len(task.ids)), None)
    return Engine(task.model, [asked], [task.config], engine_for(task.model, run_hooked), run_hooked)


def whole_map(task: Task, samples: int = SAMPLES) -> Tensor:
    """[pos, layer], mean probability of the answer in every cell, by the project's engine."""
    parts = [part.restored[0] for (part,) in engine_of(task).run(range(samples), lambda _: None)]
    return torch.cat(parts)[..., 0, 0].exp().mean(0)


def floor_flops(task: Task) -> float:
    """Multiplications and additions of a plain packed sweep: what an exact map is judged by.

    The matrices of a block for each position behind a restored one and each layer behind a restored layer, and the
    normaliser of the softmax at one position for each cell.
    """
    model, engine = task.model, engine_of(task)
    block = model.module.get_submodule(model.architecture.block(0))
    matrices = sum(parameter.numel() for parameter in block.parameters() if parameter.ndim == 2)
    flops = 0.0
    for cells, where in engine.work(task.config):
        blocks = lay_out(cells, of_block_outputs=task.config.site == "resid_post")
        positions = sum(stretch.length - pos for stretch, pos in where)
        runs = sum(model.n_layers - 1 - block.joins for block in blocks)
        flops += 2 * matrices * SAMPLES * runs * positions
        flops += 2 * model.d_vocab * model.d_model * SAMPLES * len(cells) * len(where)
    return flops


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds of this thread's processor, or of the accelerator."""
    if device == "cpu":
        start = time.thread_time()
        work()
        return time.thread_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def seconds_on_all_cores(work: Callable[[], object], repeats: int = 3) -> tuple[int, list[float]]:
    """(threads, seconds of the clock for each repeat); torch has as many threads afterwards as before."""
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    try:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return cores, times


def matrix_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Best floating point operations a second of a 1024 x 768 x 3072 product (8192 cubed on an accelerator)."""
    rows, inner, columns = (1024, 768, 3072) if device == "cpu" else (8192, 8192, 8192)
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    best = min(seconds(lambda: left @ right, device) for _ in range(20))
    return 2 * rows * inner * columns / best
