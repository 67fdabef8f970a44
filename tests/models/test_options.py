"""One set of options for every command: what they take, what "auto" becomes, and what is refused in which words."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from editing.requests import check_editable
from facts import Fact
from models import load_model
from models.options import add_model_options, load_from
from models.settings import LoadSettings
from models.sources import placement
from models.sources.placement import place
from tests.tiny import build_tiny, tiny_model
from tracing import TraceConfig, causal_trace

GB = 10**9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    module, tokenizer = build_tiny("llama")
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    return parser.parse_args(arguments)


def test_the_options_reach_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    model = load_from(parsed("--model", str(folder), "--dtype", "bfloat16", "--device", "cpu"))
    assert (model.dtype, model.device.type) == (torch.bfloat16, "cpu")
    assert model.revision == load_model(folder, dtype=torch.bfloat16).revision
    assert load_from(parsed("--model", str(folder))).dtype == torch.float32


def test_a_model_may_lie_above_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside")
    assert parsed("--model", f"../../{folder.name}").model == str(folder)
    assert parsed("--model", "gpt2").model == "gpt2"


def test_parsing_needs_no_torch() -> None:
    code = (
        "import argparse, sys; from models.options import LoadSettings, add_model_options; "
        "add_model_options(argparse.ArgumentParser()); LoadSettings(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "tpu"}, "the device is 'tpu'; choose auto, cpu, mps, cuda or one card such as cuda:1"),
        ({"device": 3}, "the device is 3; choose"),
        ({"dtype": "float64"}, "the dtype is 'float64'; choose from auto, float32, bfloat16, float16"),
        ({"device_map": "balanced"}, "the device map is 'balanced'; choose from nothing, auto"),
        ({"quantized": "2bit"}, "the load is '2bit'; choose from nothing, 8bit, 4bit"),
        ({"device": "cpu", "device_map": "auto"}, "so the device cannot be 'cpu'; leave out one of both"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
        LoadSettings(**settings)
    assert words in str(refused.value)


def test_load_model_refuses_what_the_options_refuse(folder: Path) -> None:
    with pytest.raises(ValueError, match="the dtype is 'int8'"):
        load_model(folder, dtype=torch.int8)


class Machine:
    """What torch would say on a machine with these devices and cards of this many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, cards: tuple[int, ...] = (), mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda card: SimpleNamespace(total_memory=cards[card if isinstance(card, int) else card.index or 0]),
        )


def never() -> int:
    raise AssertionError("the number of parameters is not needed here")


def test_auto_is_cuda_else_cpu_and_mps_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    assert place(LoadSettings(), never) == placement.Placement(torch.float32, torch.device("cpu"), {})
    Machine(monkeypatch, mps=True)
    assert place(LoadSettings(), never) == placement.Placement(torch.float32, torch.device("cpu"), {})
    assert place(LoadSettings(device="mps"), never).device == torch.device("mps")
    Machine(monkeypatch, mps=True, cards=(16 * GB,))
    assert place(LoadSettings(), lambda: GB).device == torch.device("cuda")


@pytest.mark.parametrize(
    ("parameters", "settings", "dtype"),
    [
        (2 * GB, {}, torch.float32),  # 8 GB of 16 are just half
        (2 * GB + 1, {}, torch.bfloat16),
        (2 * GB + 1, {"dtype": "float32"}, torch.float32),
        (2 * GB + 1, {"device": "cuda:1"}, torch.float32),  # the second card has 32
        (6 * GB, {"device_map": "auto"}, torch.float32),  # 24 of 48 on both
        (6 * GB + 1, {"device_map": "auto"}, torch.bfloat16),
        (9 * GB, {"device": "cpu"}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_float32_takes_more_than_half_the_card(
    monkeypatch: pytest.MonkeyPatch, parameters: int, settings: dict[str, str], dtype: torch.dtype
) -> None:
    Machine(monkeypatch, cards=(16 * GB, 32 * GB))
    assert place(LoadSettings(**settings), lambda: parameters).dtype == dtype


@pytest.mark.parametrize("device", ["cuda", "cuda:2", "mps"])
def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    Machine(monkeypatch, cards=(GB, GB) if device == "cuda:2" else ())
    with pytest.raises(ValueError, match=rf"the device {device!r} is not available: PyTorch finds .*cpu here"):
        place(LoadSettings(device=device), never)


def test_the_header_tells_the_number_of_parameters(folder: Path) -> None:
    from models.sources.folder import n_parameters

    # the embedding is tied to nothing here, so that the file holds every parameter once
    assert n_parameters(folder) == sum(p.numel() for p in tiny_model("llama").module.parameters())


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_bits_without_their_library_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, bits: str) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"loading in {bits} needs the library bitsandbytes, which is not installed"):
        load_from(parsed("--model", str(folder), "--load", bits))


@pytest.mark.parametrize(("bits", "flag"), [("8bit", "load_in_8bit"), ("4bit", "load_in_4bit")])
def test_bits_ask_transformers_for_them(monkeypatch: pytest.MonkeyPatch, bits: str, flag: str) -> None:
    Machine(monkeypatch, cards=(GB,))
    monkeypatch.setattr(placement, "find_spec", lambda name: object())
    found = place(LoadSettings(quantized=bits), never)
    assert (found.dtype, found.device) == (torch.bfloat16, None)  # a quantised module cannot be moved
    assert found.options["device_map"] == {"": "cuda"}
    assert getattr(found.options["quantization_config"], flag) is True


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_bitsandbytes_itself_gives_a_model_that_is_traced_and_not_edited(tmp_path: Path, bits: str) -> None:
    pytest.importorskip("bitsandbytes")
    module, tokenizer = build_tiny("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    held, whole = (load_from(parsed("--model", str(tmp_path), *more)) for more in (["--load", bits], []))
    assert (held.d_mlp, held.dtype) == (128, torch.bfloat16)
    assert held.revision != whole.revision
    fact = Fact.from_prompt("the Space Needle is in", "Space Needle", "Rome")
    trace = causal_trace(held, fact, TraceConfig(samples=2))
    assert trace.engine == "replay"
    assert np.isfinite(trace.restored).all()
    with pytest.raises(ValueError, match="holds its weights in 8 or 4 bits, which allows traces only"):
        check_editable(held)


def test_a_device_map_loads_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch)
    spread, plain = load_from(parsed("--model", str(folder), "--device-map", "auto")), load_model(folder)
    assert spread.revision == plain.revision
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(spread.logits(ids), plain.logits(ids))
