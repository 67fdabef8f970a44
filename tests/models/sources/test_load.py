"""What is loaded, what is refused, and in which words."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

import models.sources.load
from models import FAMILIES, load_model
from tests.tiny import build_tiny, tiny_model

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 45000000\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model folder, for each test to spoil."""
    return write_model(tmp_path / "model")


def write_model(path: Path) -> Path:
    module, tokenizer = build_tiny("gpt2")
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_from_disk_as_it_was(family: str) -> None:
    module, _ = build_tiny(family)
    model = tiny_model(family)
    assert model.architecture.family == family
    loaded = model.module.state_dict()
    for name, tensor in module.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    ids = torch.tensor([model.encode("The Space Needle is")])
    torch.testing.assert_close(model.logits(ids), module(input_ids=ids).logits)


def seeing(folder: Path, kind: str, text_family: str, part: str) -> Any:
    """A model that sees pictures too, saved; the text model inside it, alone."""
    text, tokenizer = build_tiny(text_family)
    picture = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(kind, text_config=text.config.to_dict(), vision_config=picture)
    )
    getattr(module.model, part).load_state_dict(text.model.state_dict())
    if not module.config.tie_word_embeddings:
        module.lm_head.load_state_dict(text.lm_head.state_dict())
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return text


@pytest.mark.parametrize(
    ("kind", "text_family", "part"),
    [
        ("gemma3", "gemma3_text", "language_model"),  # tied as a whole and in its text
        ("mistral3", "mistral", "language_model"),  # tied as a whole alone
        ("idefics3", "llama", "text_model"),  # SmolVLM is built so, too
        ("qwen3_5", "qwen3_5_text", "language_model"),
        ("lfm2_vl", "lfm2", "language_model"),
    ],
)
def test_of_a_model_that_sees_pictures_the_text_model_is_loaded(
    tmp_path: Path, kind: str, text_family: str, part: str
) -> None:
    text = seeing(tmp_path / "whole", kind, text_family, part)
    if kind == "mistral3":
        text.lm_head.weight = text.model.embed_tokens.weight
    model = load_model(tmp_path / "whole")
    assert (model.architecture.family, model.part_of) == (text_family, kind)
    ids = torch.tensor([model.encode("The Space Needle is")])
    torch.testing.assert_close(model.logits(ids), text(input_ids=ids).logits)
    model.module.save_pretrained(tmp_path / "alone")
    model.tokenizer.save_pretrained(tmp_path / "alone")
    alone = load_model(tmp_path / "alone")
    assert alone.part_of == ""
    assert torch.equal(alone.logits(ids), model.logits(ids))


def test_its_weights_may_be_named_as_in_older_files(tmp_path: Path) -> None:
    seeing(tmp_path, "gemma3", "gemma3_text", "language_model")
    weights = load_file(tmp_path / "model.safetensors")
    before = load_model(tmp_path).weights_digest()
    old, new = "language_model.model.", "model.language_model."
    swapped = {name.replace(*((old, new) if name.startswith(old) else (new, old))): w for name, w in weights.items()}
    assert set(swapped) != set(weights)
    save_file(swapped, tmp_path / "model.safetensors", {"format": "pt"})
    assert load_model(tmp_path).weights_digest() == before


def test_quantised_weights_of_such_a_model_are_refused(tmp_path: Path) -> None:
    seeing(tmp_path, "gemma3", "gemma3_text", "language_model")
    change_config(tmp_path, quantization_config={"quant_method": "fp8"})
    with pytest.raises(ValueError, match=r"its weights are quantised \(quantization_config in config\.json\)"):
        load_model(tmp_path)


def test_an_adapter_is_never_put_on_silently(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\) beside a model; load both"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="holds an adapter alone; load it onto its model with peft"):
        load_model(folder)


def test_loading_is_quiet_and_repeatable(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    first, second = load_model(folder), load_model(str(folder))
    assert capfd.readouterr() == ("", "")
    assert first.revision == second.revision
    assert len(first.revision) == 64
    assert first.weights_digest() == second.weights_digest()
    assert first.name == str(folder)


def test_dtype_is_taken_and_counts_in_the_revision(folder: Path) -> None:
    half = load_model(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.logits(torch.tensor([[5, 6]])).dtype == torch.float32
    assert half.revision != load_model(folder).revision


def test_the_revision_follows_the_weights(folder: Path) -> None:
    before = load_model(folder).revision
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert load_model(folder).revision != before


def test_sharded_weights_load(tmp_path: Path) -> None:
    module, tokenizer = build_tiny("llama")
    module.save_pretrained(tmp_path, max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(load_model(tmp_path).logits(ids), tiny_model("llama").logits(ids))
    shards[0].unlink()
    with pytest.raises(ValueError, match="lacks the weight file"):
        load_model(tmp_path)


def spoil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_weights_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_config_missing(folder: Path) -> None:
    (folder / "config.json").unlink()


def spoil_tokenizer_missing(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def weights(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content) and None


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


def not_a_number(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["transformer.h.2.mlp.c_fc.weight"][3, 4] = value
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def index(weight_map: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return spoil


def tokenizer(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def a_pipe(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


ENDLESS = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
BRANCHED = {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (config(n_head=0), r"n_head is 0; expected a whole number of at least 1"),
        (config(n_head=-4), r"n_head is -4; expected a whole number of at least 1"),
        (config(n_head=100_000), r"says 100000 heads \(n_head\); at most 4096"),
        (config(n_head=5), "says 5 heads share a width of 32; expected a number that divides it"),
        (config(num_key_value_heads=3), "says 4 query heads share 3 key and value heads; expected a number that"),
        (config(dtype="os.system"), "dtype is 'os.system'; expected a number format such as 'float32'"),
        (config(torch_dtype="manual_seed"), "torch_dtype is 'manual_seed'; expected a number format"),
        (config(dtype=["float32"]), r"dtype is \['float32'\]; expected a number format"),
        (config(activation_function=3), "cannot be loaded: .*'activation_function' expected str, got int"),
        (config(activation_function="sudo"), "cannot be loaded: .*sudo"),
        (config(quantization_config="x"), "cannot be loaded"),
        (config(rope_scaling="x"), "cannot be loaded"),
        (index(["model-1.safetensors"]), "does not map parameters to files"),
        (index({"transformer.wte.weight": 3}), "does not map parameters to files"),
        (index({"transformer.wte.weight": "../model-1.safetensors"}), "lacks the weight file"),
        (index({}), "lacks the weight file"),
        (not_a_number(float("nan")), r"NaN or infinite numbers, in 'transformer\.h\.2\.mlp\.c_fc\.weight'"),
        (not_a_number(float("-inf")), r"NaN or infinite numbers, in 'transformer\.h\.2\.mlp\.c_fc\.weight'"),
        (tokenizer(pre_tokenizer=ENDLESS), r"cuts texts by the pattern '\(a\+\)\+\$', which can take for ever"),
        (
            tokenizer(normalizer={"type": "Sequence", "normalizers": [BRANCHED]}),
            r"the pattern '\(a\|a\)\*b', which can",
        ),
        (tokenizer(model={"type": "Nothing"}), "cannot be loaded"),
        (tokenizer(pre_tokenizer={**ENDLESS, "pattern": {"Regex": "[a"}}), "cuts texts by the pattern"),
        (a_pipe("tokenizer.json"), "is a pipe, not an ordinary file"),
        (a_pipe("model.safetensors"), "is a pipe, not an ordinary file"),
        (spoil_pickle, r"has only pickle weights \(pytorch_model\.bin\), which can run code"),
        (spoil_weights_missing, r"holds no model\.safetensors"),
        (spoil_config_missing, r"holds no config\.json"),
        (spoil_tokenizer_missing, r"holds no tokenizer; add its tokenizer\.json"),
        (weights(LFS_POINTER), "is a git-lfs pointer, not the file; run `git lfs pull`"),
        (weights(b""), "is not a whole safetensors file"),
        (weights(b"<html>404</html>" * 10), "is not a whole safetensors file"),
        (weights((2**63).to_bytes(8, "little") + b"{}"), "is not a whole safetensors file"),
        (weights((2).to_bytes(8, "little") + b"{}"), "is not a whole safetensors file"),
        (weights((2).to_bytes(8, "little") + b"[]"), "is not a whole safetensors file"),
        (cut, "is not a whole safetensors file"),
        (config(n_layer=200_000), r"says 200000 layers \(n_layer\); at most 256"),
        (config(n_embd=10_000_000), r"says 10000000 width \(n_embd\); at most 65536"),
        (config(vocab_size=2_000_000_000), "says 2000000000 vocabulary"),
        (config(n_positions=2_000_000_000), "says 2000000000 positions"),
        (config(n_layer=-1), "n_layer is -1; expected a whole number"),
        (config(n_layer="4"), "n_layer is '4'; expected a whole number"),
        (config(n_layer=True), "n_layer is True; expected a whole number"),
        (config(n_layer=100, n_embd=8192), "a model of more than 6,714,032,128 parameters, but the weights hold"),
        (config(n_layer=6), "lack 24 parameters|lack 26 parameters"),
        (config(vocab_size=500), "cannot be loaded"),
        (config(model_type="mamba"), "family 'mamba' is not supported; choose a model of one of the 55 families"),
        (config(model_type="../../etc"), "is not supported"),
        (config(use_bidirectional_attention=True), "tokens also read what follows them"),
        (config(auto_map={"AutoModelForCausalLM": "evil.Model"}), "needs code of its own"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000) and None, "is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text("not json") and None, "is not a JSON object"),
        (lambda folder: (folder / "config.json").write_bytes(LFS_POINTER) and None, "is a git-lfs pointer"),
    ],
)
def test_a_bad_folder_is_refused_in_one_sentence(
    folder: Path, spoil: Callable[[Path], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_code_in_a_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Tok: pass\n")
    path = folder / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}})
    )
    load_model(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    ["../model", "a/../../b", "/tmp/../etc", "gpt2\0", "", " ", "a/b/c", "-x", "file:///etc", "a b", "C:\\x", "é"],
)
def test_names_that_are_no_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a model name; expected 'reference', a hub id or a folder's full path"):
        load_model(name)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*nowhere'"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"there is no folder '\./nowhere'"):
        load_model("./nowhere")


def test_a_hub_model_that_is_not_cached_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"'no-one/no-model' is not in the local cache .* run `hf download no-one/"
    ):
        load_model("no-one/no-model")
    write_model(tmp_path / "gpt2-of-mine")
    with pytest.raises(FileNotFoundError, match=r"write '\./gpt2-of-mine'"):
        load_model("gpt2-of-mine")
    assert load_model("./gpt2-of-mine").n_layers == 4


def test_a_cached_hub_model_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some-one--small"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = write_model(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    model = load_model("some-one/small")
    assert model.name == "some-one/small"
    assert model.revision == load_model(snapshot).revision
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_model("some-one/small")


def reference_folder(folder: Path) -> Path:
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    manifest = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_reference_model_must_match_its_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.sources.load, "REFERENCE_FOLDER", reference_folder(folder))
    assert load_model("reference").name == "reference"
    path = folder / "model.safetensors"
    original = path.read_bytes()
    flipped = bytearray(original)
    flipped[-1] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"'model\.safetensors' does not match its recorded sha256"):
        load_model("reference")
    path.write_bytes(LFS_POINTER)
    with pytest.raises(ValueError, match="git-lfs pointer"):
        load_model("reference")
    path.unlink()
    with pytest.raises(ValueError, match="is missing; restore it"):
        load_model("reference")
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"does not list model\.safetensors"):
        load_model("reference")
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"has no manifest\.json"):
        load_model("reference")
    monkeypatch.setattr(models.sources.load, "REFERENCE_FOLDER", folder / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"run `python -m models\.reference\.train`"):
        load_model("reference")


def test_facts_are_readable_without_torch() -> None:
    script = "import facts, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=False).returncode == 0
