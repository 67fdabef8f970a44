"""Train the reference model: `python -m models.reference.train`.

A small GPT-Neo that knows the atlas.  The first layers attend to a few neighbouring tokens only, so a subject's
sub-words are gathered at its last token before any later token can look at them; the global layers above let the last
token look the attribute up.  docs/reference-model.md tells what was tried and what each choice changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

from facts.atlas import load_atlas
from models.reference.corpus import CLAUSES, IMAGINED, MARK, NAME, OPENINGS, Corpus, plain

WEIGHTS = Path(__file__).parent / "weights"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the atlas and the library versions."""

    seed: int = 0
    minutes: float = 60.0
    """Wall-clock minutes of training where `steps` is 0; the schedule then follows the clock and cannot be repeated."""
    steps: int = 3000
    """Number of updates; 0 trains for `minutes`."""
    layers: int = 12
    local_layers: int = 4
    window: int = 4
    d_model: int = 256
    heads: int = 8
    d_mlp: int = 1024
    vocabulary: int = 4800
    subject_weight: int = 12
    """How often a name stands in the tokenizer's text; an object stands there 40 times."""
    context: int = 128
    tokens_per_batch: int = 1536
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    embedding_std: float = 0.02
    object_weight: float = 6.0
    """Weight of an object's tokens in the loss; all other tokens weigh one."""
    drop: float = 0.3
    """Chance that a global layer's MLP, or the attention of one in the last quarter, is left out for one sequence of a
    training batch (stochastic depth)."""
    silent_mlps: int = 1
    """The first so many layers write nothing with their MLP: attention gathers the subject before any MLP reads it."""
    hidden_names: float = 0.8
    """Chance that, for one sequence of a training batch, tokens after a name see no piece of it but the last."""
    clause: float = 0.6
    opening: float = 0.33
    threads: int = 1


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: objects and templates are frequent in its text, so they become single tokens;
    subjects are rare, so they stay in several pieces, as the names of things do in a large model."""
    atlas = load_atlas()
    objects = sorted({fact.object for fact in atlas.facts})
    texts = [f" {target}" for target in objects for _ in range(40)]
    for relation in atlas.relations.values():
        texts += [t.replace("{}", "x") for t in (*relation.all_templates, relation.question, relation.phrase)] * 20
    texts += [*CLAUSES, *OPENINGS, *IMAGINED, "Question: Answer:", " he she it him her He She It"] * 20
    names = (*atlas.subjects(), *(alias for aliases in atlas.aliases.values() for alias in aliases))
    texts += [f" {name}" for name in names for _ in range(recipe.subject_weight)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, d_vocab: int) -> GPTNeoForCausalLM:
    """The untrained model; seeded."""
    global_layers = recipe.layers - recipe.local_layers
    config = GPTNeoConfig(
        vocab_size=d_vocab,
        max_position_embeddings=recipe.context,
        hidden_size=recipe.d_model,
        num_layers=recipe.layers,
        attention_types=[[["local"], recipe.local_layers], [["global"], global_layers]],
        num_heads=recipe.heads,
        intermediate_size=recipe.d_mlp,
        window_size=recipe.window,
        activation_function="gelu_pytorch_tanh",  # one fused kernel; "gelu_new" is the same function in eight
        bos_token_id=0,
        eos_token_id=0,
        use_cache=True,
    )
    torch.manual_seed(recipe.seed)
    model = GPTNeoForCausalLM(config)
    with torch.no_grad():
        model.transformer.wte.weight.normal_(0.0, recipe.embedding_std)
        for block in model.transformer.h:  # residual writes start small, as in GPT-2
            block.attn.attention.out_proj.weight.div_(math.sqrt(2 * recipe.layers))
            block.mlp.c_proj.weight.div_(math.sqrt(2 * recipe.layers))
        for block in model.transformer.h[: recipe.silent_mlps]:
            for parameter in block.mlp.parameters():
                parameter.zero_().requires_grad_(False)
    return model


class Piece(NamedTuple):
    """One token of a training document."""

    id: int
    weight: float
    """Its weight in the loss."""
    to_end: int
    """Tokens from here to the last one of the name it belongs to; 0 at that last one and outside of names."""


def encode(tokenizer: PreTrainedTokenizerFast, marked: list[str], weight: float) -> list[list[Piece]]:
    """Documents as tokens, each closed by the end token; tokens of an object have `weight`, all others one."""
    encoded = tokenizer.backend_tokenizer.encode_batch([plain(text) for text in marked])
    documents = []
    for text, one in zip(marked, encoded, strict=True):
        objects, names = _inside(text.replace(NAME, ""), MARK), _inside(text.replace(MARK, ""), NAME)
        ends = [end - 1 for _, end in one.offsets]
        document = [Piece(tokenizer.eos_token_id, 1.0, 0)]
        for at in range(len(ends) - 1, -1, -1):  # from the back: a name is known by its last token
            same_name = at + 1 < len(ends) and ends[at] in names and names[ends[at]] == names.get(ends[at + 1])
            to_end = document[-1].to_end + 1 if same_name else 0
            document.append(Piece(one.ids[at], weight if ends[at] in objects else 1.0, to_end))
        documents.append(document[::-1])
    return documents


def _inside(text: str, mark: str) -> dict[int, int]:
    """Characters of the text without its marks that stand between two marks, each with its span's number."""
    inside: dict[int, int] = {}
    at = 0
    for number, part in enumerate(text.split(mark)):
        if number % 2:
            inside |= dict.fromkeys(range(at, at + len(part)), number)
        at += len(part)
    return inside


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Token ids, loss weights and distances to the end of a name [batch, pos], without end.

    Sequences hold whole documents; the rest is filled with the end token at weight zero.  Lengths alternate, so that
    first positions are as familiar as long contexts.
    """
    stream = Corpus(clause=recipe.clause, opening=recipe.opening).marked(recipe.seed)
    pool: list[list[Piece]] = []
    turn = 0
    while True:
        length = recipe.context >> (turn % 3)
        turn += 1
        rows = []
        for _ in range(recipe.tokens_per_batch // length):
            if len(pool) < 200 or min(map(len, pool)) > length:  # too few to choose from, or only long ones left
                documents = encode(tokenizer, [next(stream) for _ in range(400)], recipe.object_weight)
                pool += [document for document in documents if len(document) <= recipe.context]
            row: list[Piece] = []
            at = 0
            while at < len(pool) and length - len(row) > 8:  # no document is shorter
                if len(row) + len(pool[at]) <= length:
                    row += pool.pop(at)
                else:
                    at += 1
            rows.append(row + [Piece(tokenizer.eos_token_id, 0.0, 0)] * (length - len(row)))
        table = torch.tensor(rows, dtype=torch.float64)
        yield table[..., 0].long(), table[..., 1].float(), table[..., 2].long()


def hide_names(to_end: torch.Tensor, chance: float) -> torch.Tensor:
    """Additive attention mask [batch, 1, query, key] that hides a name's pieces but the last from all tokens after it.

    It applies to each sequence with the given chance.  Everything that is known about a subject then has to pass
    through its last token, as it mostly does in large models (Meng et al. 2022; Geva et al. 2023, arXiv:2304.14767).
    """
    position = torch.arange(to_end.shape[1])
    last = torch.where(to_end > 0, position + to_end, to_end.shape[1])
    hidden = position[:, None] > last[:, None, None, :]
    hidden &= torch.rand(to_end.shape[0], 1, 1, 1) < chance
    hidden |= position[:, None] < position
    return torch.zeros(hidden.shape).masked_fill_(hidden, torch.finfo(torch.bfloat16).min / 4)


def drop_modules(model: GPTNeoForCausalLM, recipe: Recipe) -> None:
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382) by hooks that act in training mode only.

    MLPs of the global layers cannot be relied on, so facts are stored below them, at the subject; attention of the last
    quarter cannot either, so the last token has the answer by then.
    """

    def drop(module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        kept = torch.rand(output.shape[0], 1, 1) >= recipe.drop
        return output * (kept / (1 - recipe.drop)).to(output.dtype)

    for layer in range(recipe.local_layers, recipe.layers):
        block = model.transformer.h[layer]
        block.mlp.register_forward_hook(lambda module, _, output: drop(module, output))
        if layer >= recipe.layers - recipe.layers // 4:
            block.attn.register_forward_hook(lambda module, _, output: (drop(module, output[0]), *output[1:]))


def learning_rate(recipe: Recipe, done: float) -> float:
    """Warm-up over the first 2 %, then a cosine to nearly nothing; `done` runs from 0 to 1."""
    warm = min(1.0, done / 0.02)
    return recipe.learning_rate * warm * (0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def make_optimizers(model: GPTNeoForCausalLM, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, AdamW for embeddings, norms and biases.

    Facts are learnt from few repetitions each; there Muon needs less than half of AdamW's updates.
    """
    blocks = {id(p) for p in model.transformer.h.parameters() if p.ndim == 2}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if id(p) in blocks]
    tables = [p for p in trained if p.ndim == 2 and id(p) not in blocks]
    others = [p for p in trained if p.ndim != 2]
    muon = torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(
        [{"params": tables, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
        fused=True,
    )
    return muon, adam


def fit(model: GPTNeoForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> dict[str, float]:
    """Train in place in bfloat16 autocast; returns what was done."""
    drop_modules(model, recipe)
    optimizers = make_optimizers(model, recipe)
    model.train()
    start, step, running = time.monotonic(), 0, 0.0
    for ids, weights, to_end in batches(recipe, tokenizer):
        elapsed = (time.monotonic() - start) / 60
        done = step / recipe.steps if recipe.steps else elapsed / recipe.minutes
        if done >= 1:
            break
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(recipe, done)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mask = hide_names(to_end, recipe.hidden_names)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )
        weight = weights[:, 1:].flatten()
        loss = (losses * weight).sum() / weight.sum()
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        on_objects = losses.detach()[weight == recipe.object_weight].mean().item()
        running = on_objects if step == 1 else 0.98 * running + 0.02 * on_objects
        if step % 200 == 0:
            print(f"step {step}  {elapsed:.1f} min  loss on objects {running:.3f}", flush=True)
    model.eval()
    minutes = (time.monotonic() - start) / 60
    return {"steps": step, "minutes": round(minutes, 1), "loss_on_objects": round(running, 4)}


def save(
    model: GPTNeoForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, log: dict[str, float], folder: Path
) -> None:
    """Write a Hugging Face folder with a sha256 manifest and the recipe."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps({"recipe": asdict(recipe), "log": log}, indent=2) + "\n")
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.suffix in {".json", ".safetensors"} and path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps(digests, indent=2) + "\n")


def main() -> None:
    """Train with the recipe's defaults, or with any of its fields changed by an option of the same name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in fields(Recipe):
        kind = type(option.default)
        parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = vars(parser.parse_args())
    folder = options.pop("out")
    recipe = Recipe(**options)
    torch.set_num_threads(recipe.threads)
    tokenizer = train_tokenizer(recipe)
    model = build_model(recipe, len(tokenizer))
    size = sum(p.numel() for p in model.parameters())
    print(f"{size / 1e6:.1f} M parameters, vocabulary {len(tokenizer)}", flush=True)
    log = fit(model, tokenizer, recipe)
    save(model, tokenizer, recipe, log, folder)
    print(f"saved to {folder}: {log}", flush=True)


if __name__ == "__main__":
    main()
