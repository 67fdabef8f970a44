"""The catalogue says what is true of its models, and its commands print it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

import models.sources.hub
from models.__main__ import main
from models.sources.catalogue import ENTRIES, entry_named, fetch, folder_of, is_fetched, memory_needed
from tests.models.sources.test_load import write_model


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def neox(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": 50_304,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }


def gated(width: int, layers: int, d_mlp: int, heads: int, shared: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": d_mlp,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        **more,
    }


PUBLISHED_SIZES = {
    "gpt2": {},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    "EleutherAI/pythia-160m": neox(768, 12, 12),
    "EleutherAI/pythia-410m": neox(1024, 24, 16),
    "EleutherAI/pythia-1b": neox(2048, 16, 8),
    "EleutherAI/pythia-1.4b": neox(2048, 24, 16),
    "EleutherAI/pythia-2.8b": neox(2560, 32, 32),
    "smollm2-135m": gated(576, 30, 1536, 9, 3, 49_152),
    "HuggingFaceTB/SmolLM2-135M": gated(576, 30, 1536, 9, 3, 49_152),
    "HuggingFaceTB/SmolLM2-360M": gated(960, 32, 2560, 15, 5, 49_152),
    "HuggingFaceTB/SmolLM2-1.7B": gated(2048, 24, 8192, 32, 32, 49_152),
    "gemma-3-270m": gated(640, 18, 2048, 4, 1, 262_144, head_dim=256),
    "google/gemma-3-270m": gated(640, 18, 2048, 4, 1, 262_144, head_dim=256),
    "google/gemma-3-1b-pt": gated(1152, 26, 6912, 4, 1, 262_144, head_dim=256),
    "Qwen/Qwen2.5-0.5B": gated(896, 24, 4864, 14, 2, 151_936),
    "Qwen/Qwen2.5-1.5B": gated(1536, 28, 8960, 12, 2, 151_936),
    "Qwen/Qwen3-0.6B": gated(1024, 28, 3072, 16, 8, 151_936, head_dim=128),
    "meta-llama/Llama-3.2-1B": gated(2048, 16, 8192, 32, 8, 128_256, head_dim=64),
    "meta-llama/Llama-3.2-3B": gated(3072, 28, 8192, 24, 8, 128_256, head_dim=128),
}
"""Name -> what the model's published config.json says."""


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_sizes_are_those_of_the_published_configs(name: str) -> None:
    entry = ENTRIES[name]
    config = AutoConfig.for_model(entry.family, **PUBLISHED_SIZES[name])
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    assert entry.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert (entry.n_layers, entry.d_model) == (config.num_hidden_layers, config.hidden_size)


def test_the_bundled_model_is_as_stated() -> None:
    assert set(PUBLISHED_SIZES) | {"reference", "glass-box"} == set(ENTRIES)
    entry, folder = ENTRIES["reference"], folder_of("reference")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        sizes = [torch.Size(weights.get_slice(name).get_shape()).numel() for name in weights.keys()]  # noqa: SIM118
    assert entry.parameters == sum(sizes)
    config = json.loads((folder / "config.json").read_text())
    assert (entry.family, entry.n_layers, entry.d_model) == ("gpt_neo", config["num_layers"], config["hidden_size"])
    assert is_fetched("reference")
    assert entry.download_bytes == 0


def test_sizes_and_layers_follow_from_the_entry() -> None:
    assert ENTRIES["gpt2-xl"].published_layers == (13, 14, 15, 16, 17)
    assert ENTRIES["gpt2"].published_layers == ()
    assert ENTRIES["gpt2"].download_bytes == 4 * 124_439_808
    assert ENTRIES["Qwen/Qwen2.5-0.5B"].download_bytes == 2 * 494_032_768
    assert ENTRIES["gemma-3-270m"].download_bytes == 56_634_990 + 60_953_371 + 59_882_045 + 60_704_618
    assert memory_needed(1_000_000_000, "float32") == 6_200_000_000
    assert memory_needed(1_000_000_000, "bfloat16") == 3_700_000_000
    with pytest.raises(ValueError, match="'gpt5' is not in the catalogue; choose from reference, glass-box, sm"):
        entry_named("gpt5")


def test_list_and_show_print_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ENTRIES)
    assert main(["list", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["meta-llama/Llama-3.2-1B"]["gated"]
    assert listed["smollm2-135m"]["weights"] == "dequantised from Q4_1 and Q8_0"
    assert not listed["smollm2-135m"]["fetched"]
    assert main(["show", "gpt2-xl"]) == 0
    assert "layers edited in papers: 13, 14, 15, 16, 17" in capsys.readouterr().out
    assert main(["show", "gpt2-xl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 1_557_611_200
    assert main(["show", "nothing"]) == 1
    assert "'nothing' is not in the catalogue" in capsys.readouterr().err
    assert main(["remove", "reference"]) == 1
    assert "is part of the repository and cannot be removed" in capsys.readouterr().err
    assert main(["remove", "nothing"]) == 1
    assert "is neither in the catalogue nor converted from a GGUF file" in capsys.readouterr().err


def test_a_model_of_the_hub_is_found_in_its_cache_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not is_fetched("gpt2")
    repository, revision = tmp_path / "hub" / "models--gpt2", "0123456789abcdef0123456789abcdef01234567"
    snapshot = write_model(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    assert folder_of("gpt2") == fetch("gpt2") == snapshot
    assert main(["get", "gpt2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fetched"]
    assert main(["remove", "gpt2"]) == 0
    assert not is_fetched("gpt2")


def test_a_model_of_the_hub_that_cannot_be_had_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "gpt2"]) == 1  # the tests' hub is offline
    assert "error: the model 'gpt2' is not in the local cache and the hub cannot be reached" in capsys.readouterr().err


def test_a_gated_model_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(hub_id: str, local_files_only: bool = False, **wanted: Any) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        raise GatedRepoError("403", response=_Response())  # type: ignore[arg-type]

    monkeypatch.setattr(models.sources.hub, "snapshot_download", refused)
    with pytest.raises(ValueError, match="accept it on the model's page there, run `hf auth login`, then try again"):
        models.sources.hub.cached_or_downloaded("meta-llama/Llama-3.2-1B")


class _Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    request = None
