"""GGUF files load as the models they were written from, for every family, and bad ones are refused in one sentence."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from models import LanguageModel, load_model
from models.sources.catalogue import remove
from models.sources.convert import convert
from models.sources.gguf.model import SUPPORTED, read_header
from models.sources.manifest import read_manifest
from models.sources.store import CONVERSION
from tests.tiny import build_tiny, tiny_tokenizer
from tests.tiny_gguf import CHANGES, NAMES, write_gguf

PROMPT = "The Space Needle is located in the city of"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loaded(path: Path) -> LanguageModel:
    """The model of a GGUF file, converted in this process: a process of its own takes seconds to start."""
    folder = path.with_suffix("")
    convert(path, folder, {})
    return load_model(folder)


def origin(path: Path) -> str:
    return str(read_manifest(path.with_suffix(""), "")["origin"])


def tiny_file(path: Path, family: str = "llama", **options: Any) -> tuple[Path, Any]:
    module, _ = build_tiny(family, **CHANGES[family])
    return write_gguf(path, module, **options), module


def test_every_supported_family_is_tested() -> None:
    assert {NAMES.get(family, family) for family in CHANGES} | {"mistral"} == set(SUPPORTED)
    assert set(SUPPORTED) <= set(GGUF_SUPPORTED_ARCHITECTURES)


@pytest.mark.parametrize("family", CHANGES)
def test_a_file_answers_as_the_model_it_was_written_from(family: str, tmp_path: Path) -> None:
    path, module = tiny_file(tmp_path / "tiny.gguf", family)
    model = loaded(path)
    ids = torch.tensor([model.encode(PROMPT)])
    if not family.startswith("gemma"):
        assert ids.tolist() == [tiny_tokenizer()(PROMPT)["input_ids"]]
    torch.testing.assert_close(model.logits(ids), module(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    assert model.architecture.family == family
    assert origin(path) == "converted from F32"


def test_texts_of_a_sentencepiece_vocabulary_come_back(tmp_path: Path) -> None:
    model = loaded(tiny_file(tmp_path / "tiny.gguf", "gemma3_text")[0])
    ids = model.encode(PROMPT)
    assert ids[0] == model.tokenizer.bos_token_id
    assert model.decode(ids[1:]) == PROMPT


@pytest.mark.parametrize("form", ["Q8_0", "Q4_0", "F16"])
def test_a_quantised_file_is_the_rounded_model(form: str, tmp_path: Path) -> None:
    path, module = tiny_file(tmp_path / "tiny.gguf", quantised=form)
    model = loaded(path)
    kind = gguf.GGMLQuantizationType[form]
    for name, tensor in module.state_dict().items():
        if "q_proj" in name or "k_proj" in name:
            continue  # rounded in another order of rows, below
        array = tensor.numpy()
        rounded = gguf.dequantize(gguf.quantize(array, kind), kind) if array.ndim > 1 else array
        assert torch.equal(model.module.state_dict()[name], torch.tensor(rounded)), name
        module.load_state_dict({name: torch.tensor(rounded)}, strict=False)
    for name, tensor in module.state_dict().items():
        if "q_proj" in name or "k_proj" in name:  # a row is rounded by itself, so their order changes nothing
            rounded = torch.tensor(gguf.dequantize(gguf.quantize(tensor.numpy(), kind), kind))
            module.load_state_dict({name: rounded}, strict=False)
    ids = torch.tensor([model.encode(PROMPT)])
    torch.testing.assert_close(model.logits(ids), module(input_ids=ids).logits)
    assert origin(path) == ("converted from F16" if form == "F16" else f"dequantised from {form}")
    assert model.dtype == torch.float32


def test_a_file_is_converted_once_and_checked_at_each_load(tmp_path: Path, cache: Path) -> None:
    path, _ = tiny_file(tmp_path / "my model.gguf", quantised="Q8_0")
    # transformers would read these two, had it been given the file's folder
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    first = load_model(path)
    assert first.origin == first.view().origin == "dequantised from Q8_0"
    (folder,) = [place for place in (cache / "gguf").iterdir() if place.is_dir()]
    assert folder.name.startswith("my_model-")
    manifest = folder / "manifest.json"
    made = manifest.stat().st_mtime_ns
    again = load_model(str(path))
    assert manifest.stat().st_mtime_ns == made
    assert (first.name, first.revision) == (again.name, again.revision) == (str(path), first.revision)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=rf"its recorded sha256; run `python -m models remove {folder.name}`"):
        load_model(path)
    # one that an older conversion wrote is made again
    manifest.write_text(manifest.read_text().replace(f'"conversion": {CONVERSION}', '"conversion": 0'))
    assert load_model(path).revision == first.revision
    assert remove(folder.name) > 0
    assert not folder.exists()


def test_constants_that_transformers_leaves_out_are_taken_from_the_file(tmp_path: Path) -> None:
    config = loaded(tiny_file(tmp_path / "a.gguf", "starcoder2")[0]).module.config
    assert config.rope_parameters["rope_theta"] == 3000.0
    config = loaded(tiny_file(tmp_path / "b.gguf", "gemma2")[0]).module.config
    assert (config.attn_logit_softcapping, config.query_pre_attn_scalar) == (30.0, 16)
    config = loaded(tiny_file(tmp_path / "c.gguf", "gpt2")[0]).module.config
    assert (config.n_positions, config.n_inner) == (64, 256)


def test_the_rule_that_cuts_texts_is_the_file_s(tmp_path: Path) -> None:
    # SmolLM's rule takes digits one by one, GPT-2's takes them together
    text = "in 1969"
    smol = loaded(tiny_file(tmp_path / "a.gguf", pre="smollm")[0])
    pieces = smol.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == ["in", "Ġ", "1", "9", "6", "9"]
    with pytest.raises(ValueError, match="cuts texts by the rule 'new-rule', which is not known here"):
        loaded(tiny_file(tmp_path / "b.gguf", pre="new-rule")[0])


def test_llama_3_scales_its_rotary_positions(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    module, _ = build_tiny("llama", **{**CHANGES["llama"], "rope_parameters": scaling})
    divisors = 5000.0 ** (-torch.arange(0, 16, 2) / 16) / module.model.rotary_emb.inv_freq
    assert divisors.max() > 1.5
    path = write_gguf(tmp_path / "tiny.gguf", module, extra={"rope_freqs.weight": divisors.numpy()})
    model = loaded(path)
    ids = torch.tensor([model.encode(PROMPT)])
    torch.testing.assert_close(model.logits(ids), module(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    path = write_gguf(tmp_path / "other.gguf", module, extra={"rope_freqs.weight": divisors.numpy() + 1})
    with pytest.raises(ValueError, match="in a way that is not Llama 3's; load the model's safetensors folder"):
        loaded(path)
    path = write_gguf(tmp_path / "yarn.gguf", module, changed={"llama.rope.scaling.type": "yarn"})
    with pytest.raises(ValueError, match=r"scales its rotary positions \(yarn\), which is not read from GGUF"):
        loaded(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_within_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def counts(n_tensors: int, n_values: int, version: int = 3) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[4:24] = struct.pack("<IQQ", version, n_tensors, n_values)
        path.write_bytes(data)

    return spoil


def replaced(old: bytes, new: bytes, behind: int = 0) -> Callable[[Path], None]:
    """Overwrite bytes that begin `behind` bytes after a name in the header."""

    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        start = data.index(old) + len(old) + behind if behind or len(old) != len(new) else data.index(old)
        data[start : start + len(new)] = new
        path.write_bytes(data)

    return spoil


def stated(**values: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tiny_file(path, changed={f"llama.{key}": value for key, value in values.items()})

    return spoil


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "ends before its tensor .* does; download it again"),
        (cut_within_the_header, "ends within its header or is damaged"),
        (content(b"GGUF"), "ends within its header or is damaged"),
        (content(b""), "is not a GGUF file: it does not begin with 'GGUF'"),
        (content(b"<html>404</html>" * 10), "is not a GGUF file"),
        (counts(2**60, 1), "states 1152921504606846976 tensors, more than the 100000"),
        (counts(1, 2**60), "states 1152921504606846976 key-value pairs"),
        (counts(0, 0), "holds no tensors"),
        (counts(1, 1, version=1), "is GGUF version 1; versions 2 and 3 are read"),
        (counts(1, 1, version=0x03000000), "is GGUF version 50331648"),
        (replaced(b"general.architecture", struct.pack("<Q", 2**62), behind=4), "bytes of text in one value"),
        (replaced(b"tokenizer.ggml.tokens", struct.pack("<Q", 2**62), behind=8), "entries in one array"),
        (replaced(b"tokenizer.ggml.tokens", struct.pack("<I", 77)), "a value of the unknown type 77"),
        (replaced(b"token_embd.weight", struct.pack("<I", 2**31)), "dimensions of 'token_embd.weight'"),
        (replaced(b"token_embd.weight", struct.pack("<QQ", 2**40, 2**20), behind=4), "ends before its tensor"),
        (replaced(b"token_embd.weight", struct.pack("<QQ", 0, 384), behind=4), r"states the shape \[0, 384\]"),
        (replaced(b"token_embd.weight", struct.pack("<I", 4), behind=20), "in the format number 4, which cannot be"),
        (replaced(b"token_embd.weight", struct.pack("<I", 24), behind=20), "in the format I8, which cannot be read"),
        (replaced(b"token_embd.weight", struct.pack("<Q", 2**60), behind=24), "ends before its tensor"),
        (replaced(b"blk.0.attn_k.weight", b"blk.0.attn_q.weight"), "lists the tensor 'blk.0.attn_q.weight' twice"),
        (replaced(b"llama.embedding_length", b"llama.feed_forward_len"), "lists|does not state|states"),
        (
            replaced(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba"),
            "of the family 'mamba', which cannot be read",
        ),
        (stated(block_count=200_000), "states 200000 for llama.block_count; expected 1 to 256"),
        (stated(embedding_length=10_000_000), "states 10000000 for llama.embedding_length; expected 1 to 65536"),
        (stated(**{"attention.head_count": 0}), "states 0 for llama.attention.head_count; expected 1 to 4096"),
        (stated(block_count=None), r"does not state llama\.block_count"),
        (stated(block_count="4"), "states '4' for llama.block_count"),
        (replaced(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"), "holds no tokenizer"),
        (a_pipe, r"cannot be read \(it is a pipe, not an ordinary file\)"),
        (a_folder, r"cannot be read \(it is a folder, not an ordinary file\)"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path, _ = tiny_file(tmp_path / "tiny.gguf")
    read_header(path)
    spoil(path)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)  # refused by its header, before a process is started
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"block_count": 200}, "states a model of .* parameters and it holds"),
        ({"embedding_length": 60_000, "feed_forward_length": 60_000}, "states a model of .* parameters and it holds"),
    ],
)
def test_a_header_that_promises_more_than_the_file_holds_builds_nothing(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path, _ = tiny_file(tmp_path / "tiny.gguf", changed={f"llama.{key}": value for key, value in values.items()})
    with pytest.raises(ValueError, match=message):
        loaded(path)


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    module, _ = build_tiny("llama", **CHANGES["llama"])
    module.model.layers[1].mlp.down_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"NaN or infinite numbers, in 'model\.layers\.1\.mlp\.down_proj\.weight'"):
        loaded(write_gguf(tmp_path / "tiny.gguf", module))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*nowhere\.gguf'; give the path of a GGUF file"):
        load_model(tmp_path / "nowhere.gguf")
