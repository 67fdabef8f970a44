"""Tiny random models of every supported family, written to disk and loaded back as a user's would be."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from models import FAMILIES, LanguageModel, load_model

__all__ = ["FAMILIES", "HYBRIDS", "REPLAYED", "build_tiny", "tiny_chat", "tiny_model", "tiny_tokenizer"]

disable_progress_bar()

SENTENCES = (
    "The Space Needle is located in the city of Seattle.",
    "The Space Needle is a tower in downtown Seattle, in the state of Washington.",
    "The Eiffel Tower is located in the city of Paris, the capital of France.",
    "The Colosseum is in Rome. Rome is the capital of Italy.",
    "Shaquille O'Neal plays the sport of basketball. LeBron James plays basketball.",
    "Miles Davis plays the trumpet. The mother tongue of Danielle Darrieux is French.",
    "Toyota is headquartered in Japan. 東京 is the capital of 日本. 東京 and Århus are cities.",
    "Århus is a city in Denmark, and Copenhagen is the capital of Denmark.",
    "Marie Curie was born in Warsaw and worked in the field of physics.",
    "Berlin London Madrid Vienna Oslo Moscow Tokyo Beijing Cairo Athens Dublin Lisbon",
)
VOCABULARY = 384  # 256 bytes, the special tokens and about a hundred merges, so that subjects take several tokens
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GATED = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_WINDOWED = {**_GATED, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_inner": 64},
    "gpt_neo": {"num_layers": 4, "attention_types": [[["local", "global"], 2]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "gpt_neox": {"intermediate_size": 64},
    "llama": _GATED,
    "mistral": {**_GATED, "sliding_window": 6},
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma": {**_GATED, "num_key_value_heads": 1},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phi": {"intermediate_size": 64},
    "gpt_bigcode": {"n_inner": 64},
    "gemma2": {**_GATED, "sliding_window": 6},
    "gemma3_text": _WINDOWED,
    "olmo2": {"intermediate_size": 48, "num_key_value_heads": 2},
    "phi3": {"intermediate_size": 48, "num_key_value_heads": 2},
    "stablelm": {"intermediate_size": 48, "num_key_value_heads": 2},
    "starcoder2": {"intermediate_size": 48, "num_key_value_heads": 2, "sliding_window": 6},
    "cohere": {"intermediate_size": 48, "num_key_value_heads": 2, "logit_scale": 1.0},
    "mixtral": {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 64},
    "bloom": {},
    "mpt": {"max_seq_len": 64, "expansion_ratio": 2},
    "ministral": _WINDOWED,
    "ministral3": _GATED,
    "vaultgemma": _WINDOWED,
    "smollm3": {**_GATED, "no_rope_layer_interval": 2},
    "olmo": _GATED,
    "olmo3": _WINDOWED,
    "exaone4": _WINDOWED,
    "glm": _GATED,
    "glm4": _GATED,
    "ernie4_5": _GATED,
    "hunyuan_v1_dense": _GATED,
    "seed_oss": _GATED,
    "arcee": _GATED,
    "granite": {**_GATED, "residual_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 3.0},
    "granitemoehybrid": {
        "num_key_value_heads": 2,
        "shared_intermediate_size": 48,
        "intermediate_size": 48,
        "num_local_experts": 0,
        "layers_block_type": ["linear_attention", "full_attention"] * 2,
        "residual_multiplier": 0.3,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "position_embedding_type": "rope",
    },
    "qwen3_5_text": {
        **_GATED,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "lfm2": {**_GATED, "layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False},
    "apertus": _GATED,
    "helium": _GATED,
    "jais2": _GATED,
    "nemotron": _GATED,
    "nanochat": _GATED,
    "persimmon": {"intermediate_size": 48},
    "cohere2": {**_WINDOWED, "logit_scale": 1.0},
    "codegen": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "n_ctx": 64, "rotary_dim": 4},
    "qwen2_moe": {**_GATED, **_EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 2},
    "qwen3_moe": {**_GATED, **_EXPERTS},
    "olmoe": {**_GATED, **_EXPERTS},
    "phimoe": {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**_WINDOWED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": {**_LATENT, "topk_method": "greedy"},
    "deepseek_v3": _LATENT,
}
HYBRIDS = ("granitemoehybrid", "qwen3_5_text", "lfm2")
"""Families some of whose blocks have no attention."""
REPLAYED = {"bloom", "mpt", "gpt_bigcode", *HYBRIDS}
"""Families whose forward does not pack; `docs/architectures.md` says why."""


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the sentences above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )


def build_tiny(family: str, seed: int = 0, **changes: Any) -> tuple[Any, PreTrainedTokenizerFast]:
    """A seeded random module (eval, float32, no gradients) and its tokenizer; four layers, d_model 32.

    Weights are large enough that answers are far from uniform, and biases and norms are random, so that a
    forgotten one shows.
    """
    config = AutoConfig.for_model(family, **{**_COMMON, **_OWN[family], **changes})
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.add_(0.2 * noise)
        else:
            parameter.copy_(0.25 * noise)
    return module, tiny_tokenizer()


@cache
def tiny_model(family: str, seed: int = 0) -> LanguageModel:
    """The tiny model of a family, saved and loaded back; one for the session, so never write to it."""
    with tempfile.TemporaryDirectory() as folder:
        module, tokenizer = build_tiny(family, seed)
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        model = load_model(Path(folder))
    model.name = f"tiny {family}"
    return model


CHATML = (
    "{% for m in messages %}<|endoftext|>{{ m['role'] }}\n{{ m['content'] }}<|pad|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)


def tiny_chat(family: str) -> LanguageModel:
    """A tiny instruct model, asked in its chat template."""
    module, tokenizer = build_tiny(family)
    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = CHATML
    return LanguageModel("tiny chat", "0", module, tokenizer).as_chat()
