"""A transformer whose weights are set by hand, so that where it keeps a fact is known: `load_model("glass-box")`

Six landmarks, their cities, six layers.  Every other part of the network is idle:

    token    one-hot of the word, and 32 random signs that no part of the answer's path reads
    MLP of layer `FACT_LAYER`      at a landmark's last word: writes the city into a slot, and raises a flag
    attention of layer `READ_LAYER`, head 1      every later token looks for the flag and copies the slot
    unembedding      reads the copy; after a city comes a full stop, after a full stop the end

So a trace must find the MLP at (last subject token, `FACT_LAYER`) and attention at (last token, `READ_LAYER`), states
at the last subject token before `READ_LAYER` and at the last token from there on, and nothing else.  The word is
recognised within a narrow window, so that noise on the subject loses the fact.

LayerNorm is made to change next to nothing: two constant entries of the position embedding are far larger than the
rest, so its scale is the same everywhere, and its gain undoes that scale; whatever is written is subtracted from one
entry, so that the mean stays 0.  Needs neither torch nor transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

N_LAYERS, N_HEADS, CONTEXT = 6, 2, 128
FACT_LAYER, READ_LAYER, READ_HEAD = 2, 4, 1
FACTS = {
    "Space Needle": "Seattle",
    "Eiffel Tower": "Paris",
    "Brandenburg Gate": "Berlin",
    "Trevi Fountain": "Rome",
    "Big Ben": "London",
    "Blue Mosque": "Istanbul",
}
"""Subject -> city; the last words differ."""
WORDS = ("The", " The", " the", " is", " located", " in", " city", " of", " can", " be", " visited", " found", ".")
UNKNOWN, END = "<unk>", "<|endoftext|>"
IDLE, IDLE_SIZE = 32, 2.0
"""Entries of the embedding that nothing on the answer's path reads, and their size: they set the spread that noise is
measured by."""
CONSTANT = 400.0
"""Of the position embedding."""
SIGNAL = 40.0
"""Size of a slot and of the flag; ten times the usual noise."""
LOGIT, NEXT_LOGIT = 9.0, 20.0
"""Of the city, and of the full stop after it."""
WINDOW = (0.8, 0.9, 1.1, 1.2)
"""Where the recognition of a word begins, is full, ends being full and ends."""
SLOPE = 400.0
BACKGROUND = 32
"""Neurons of every MLP that write nothing; without them most words have the key zero, which no edit changes."""

NAME = "glass-box"
"""In the catalogue."""
WEIGHTS = "model.safetensors"
Array = NDArray[np.float32]


def vocabulary() -> list[str]:
    """Every token as text, its id the place in the list."""
    names = [f" {word}" for subject in FACTS for word in subject.split()]
    names += [subject.split()[0] for subject in FACTS]  # a prompt may begin with a name
    cities = [f" {city}" for city in FACTS.values()]
    return list(dict.fromkeys([END, UNKNOWN, *WORDS, *names, *cities]))


def layout() -> dict[str, range]:
    """Which entries of the residual stream hold what."""
    n = len(FACTS)
    sizes = {"token": len(vocabulary()), "slot": n, "flag": 1, "copy": n, "balance": 1, "constant": 2, "idle": IDLE}
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = range(start, start + size)
        start += size
    return places


def weights() -> dict[str, Array]:
    """Every tensor of the GPT-2, by name; [d_in, d_out] for the Conv1D layers."""
    tokens, at = vocabulary(), layout()
    d_model = at["idle"].stop + at["idle"].stop % N_HEADS
    random = np.random.default_rng(0)
    embedding = np.zeros((len(tokens), d_model), dtype=np.float32)
    embedding[:, at["token"]] = np.eye(len(tokens))
    signs = np.tile([-1.0, 1.0], (len(tokens), IDLE // 2))
    embedding[:, at["idle"]] = IDLE_SIZE * random.permuted(signs, axis=1)
    embedding[:, at["balance"]] = -1.0
    positions = np.zeros((CONTEXT, d_model), dtype=np.float32)
    positions[:, at["constant"]] = (CONSTANT, -CONSTANT)
    head = np.zeros_like(embedding)
    for index, city in enumerate(FACTS.values()):
        head[tokens.index(f" {city}"), at["copy"][index]] = LOGIT / SIGNAL
        head[tokens.index("."), at["token"][tokens.index(f" {city}")]] = NEXT_LOGIT
    head[tokens.index(END), at["token"][tokens.index(".")]] = NEXT_LOGIT
    tensors: dict[str, Array] = {
        "transformer.wte.weight": embedding,
        "transformer.wpe.weight": positions,
        "lm_head.weight": head,
    }
    scale = float(np.sqrt(((embedding[0] + positions[0]) ** 2).mean()))  # the same for every token
    for name in ("ln_f", *(f"h.{layer}.{norm}" for layer in range(N_LAYERS) for norm in ("ln_1", "ln_2"))):
        tensors[f"transformer.{name}.weight"] = np.full(d_model, scale, dtype=np.float32)
        tensors[f"transformer.{name}.bias"] = np.zeros(d_model, dtype=np.float32)
    for layer in range(N_LAYERS):
        parts = _attention(layer, d_model) | _mlp(layer, d_model, random)
        tensors |= {f"transformer.h.{layer}.{name}": tensor for name, tensor in parts.items()}
    return tensors


def _attention(layer: int, d_model: int) -> dict[str, Array]:
    """Idle, but for the head that looks for the flag and copies the slots."""
    at, d_head = layout(), d_model // N_HEADS
    into, bias = np.zeros((d_model, 3 * d_model), dtype=np.float32), np.zeros(3 * d_model, dtype=np.float32)
    out = np.zeros((d_model, d_model), dtype=np.float32)
    if layer == READ_LAYER:
        query, key, value = (part * d_model + READ_HEAD * d_head for part in range(3))
        bias[query] = 1.0
        into[at["flag"][0], key] = 24.0 * np.sqrt(d_head) / SIGNAL
        for index in range(len(FACTS)):
            into[at["slot"][index], value + index] = 1.0
            out[READ_HEAD * d_head + index, [at["copy"][index], at["balance"][0]]] = (1.0, -1.0)
    return {
        "attn.c_attn.weight": into,
        "attn.c_attn.bias": bias,
        "attn.c_proj.weight": out,
        "attn.c_proj.bias": np.zeros(d_model, dtype=np.float32),
    }


def _mlp(layer: int, d_model: int, random: np.random.Generator) -> dict[str, Array]:
    """Idle, but for four neurons a fact: two ramps up make a step where the word begins, two make one where it ends."""
    at, tokens = layout(), vocabulary()
    d_mlp = 4 * len(FACTS) + BACKGROUND
    into, bias = np.zeros((d_model, d_mlp), dtype=np.float32), np.zeros(d_mlp, dtype=np.float32)
    out = np.zeros((d_mlp, d_model), dtype=np.float32)
    into[at["idle"], 4 * len(FACTS) :] = random.normal(0.0, 0.2, (IDLE, BACKGROUND))
    if layer == FACT_LAYER:
        height = SLOPE * (WINDOW[1] - WINDOW[0])
        for index, subject in enumerate(FACTS):
            word = at["token"][tokens.index(f" {subject.split()[-1]}")]
            for corner, (threshold, sign) in enumerate(zip(WINDOW, (1.0, -1.0, -1.0, 1.0), strict=True)):
                neuron = 4 * index + corner
                into[word, neuron], bias[neuron] = SLOPE, -SLOPE * threshold
                written = [at["slot"][index], at["flag"][0], at["balance"][0]]
                out[neuron, written] = sign * SIGNAL / height * np.array([1.0, 1.0, -2.0])
    return {
        "mlp.c_fc.weight": into,
        "mlp.c_fc.bias": bias,
        "mlp.c_proj.weight": out,
        "mlp.c_proj.bias": np.zeros(d_model, dtype=np.float32),
    }


def config() -> dict[str, object]:
    """config.json of the model."""
    tensors = weights()
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": len(vocabulary()),
        "n_embd": tensors["transformer.wte.weight"].shape[1],
        "n_inner": tensors["transformer.h.0.mlp.c_fc.bias"].shape[0],
        "n_layer": N_LAYERS,
        "n_head": N_HEADS,
        "n_positions": CONTEXT,
        "activation_function": "gelu_new",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def build(folder: Path) -> Path:
    """Write the model as a folder that `load_model` takes; the same bytes each time, the weights last."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    spelled = {token.replace(" ", "Ġ"): number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(spelled, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END, "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=1), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config(), indent=1), encoding="utf-8")
    part = folder / "model.part"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in weights().items()}, part)
    part.replace(folder / WEIGHTS)
    return folder
