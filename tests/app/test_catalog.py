"""Models on offer: what `ENGRAM_MODELS` adds, and what is said of what it cannot."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.server.cache import Shelf
from app.server.catalog import AS_USUAL, Choice, _added, choice_of, choices, offer
from models import FAMILIES
from tests.tiny import build_tiny
from tests.tiny_gguf import write_gguf

NewPage = Callable[..., AppTest]


@pytest.fixture(autouse=True)
def nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = str(tmp_path_factory.mktemp("empty"))
    monkeypatch.setenv("ENGRAM_CACHE", empty)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", empty)


def folder(path: Path, config: str | None = '{"model_type": "gpt2", "n_layer": 5}', weights: bool = True) -> Path:
    path.mkdir()
    if config is not None:
        (path / "config.json").write_text(config)
    if weights:
        (path / "model.safetensors").write_bytes(b"")
    return path


def test_folders_are_offered_under_their_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENGRAM_MODELS", f" mine = {folder(tmp_path / 'a')} ,")
    assert choices()["mine"].n_layers == 5
    assert next(iter(choices())) == "reference"
    assert offer().unusable == ()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("gpt2", "ENGRAM_MODELS holds 'gpt2'; write NAME=FOLDER, as in gpt2=/data/gpt2"),
        ("=x", "ENGRAM_MODELS holds '=x'; write NAME=FOLDER, as in gpt2=/data/gpt2"),
        ("x=", "ENGRAM_MODELS holds 'x='; write NAME=FOLDER, as in gpt2=/data/gpt2"),
        ("x={root}/nowhere", "there is no such folder or file"),
        ("x={root}/file", "it is neither a folder nor a .gguf file"),
        ("x={root}/empty", "it holds no config.json; give the folder that `save_pretrained` wrote"),
        ("x={root}/words", "its config.json is not a JSON object; download the model again"),
        ("x={root}/list", "its config.json is not a JSON object; download the model again"),
        ("x={root}/text", "its config.json says that it has 'many' layers; expected 1 to 256"),
        ("x={root}/null", "its config.json says that it has None layers; expected 1 to 256"),
        ("x={root}/zero", "its config.json says that it has 0 layers; expected 1 to 256"),
        (
            "x={root}/state",
            f"the model family 'mamba' is not supported; choose a model of one of the {len(FAMILIES)} families in "
            "docs/architectures.md, such as gpt2, llama, qwen3 or gemma3_text",
        ),
        ("x={root}/pipe", "its config.json is no ordinary file; give the folder that `save_pretrained` wrote"),
        ("x={root}/light", "it holds no .safetensors file; save it with `save_pretrained`"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason_and_the_rest_works(
    entry: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    good = folder(tmp_path / "a")
    folder(tmp_path / "empty", None)
    folder(tmp_path / "light", weights=False)
    os.mkfifo(folder(tmp_path / "pipe", None) / "config.json")
    for name, config in (("words", "{"), ("list", "[]"), ("text", '{"n_layer": "many"}'), ("null", '{"n_layer": null}'),
                         ("zero", '{"num_hidden_layers": 0}'),
                         ("state", '{"model_type": "mamba", "num_hidden_layers": 3}')):  # fmt: skip
        folder(tmp_path / name, config)
    monkeypatch.setenv("ENGRAM_MODELS", f"{entry.format(root=tmp_path)},mine={good}")
    found = offer()
    assert list(found.models) == ["reference", "glass-box", "mine"]
    about = "" if reason.startswith("ENGRAM") else "the model 'x' of ENGRAM_MODELS cannot be used: "
    assert found.unusable == (about + reason,)


def test_models_of_the_hubs_cache_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = '{"model_type": "%s", "num_hidden_layers": 7, "architectures": ["%s"]}'
    sees = '{"model_type": "%s", "architectures": ["%s"], "text_config": {"model_type": "%s", "num_hidden_layers": 7}}'
    for name, text in {
        "some/writer": config % ("llama", "LlamaForCausalLM"),
        "some/reader": config % ("bert", "BertForMaskedLM"),
        "some/state": config % ("mamba", "MambaForCausalLM"),
        "some/seer": sees % ("gemma3", "Gemma3ForConditionalGeneration", "gemma3_text"),
        "some/clip": sees % ("clip", "CLIPModel", "clip_text_model"),
    }.items():
        place = tmp_path / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        (place / "snapshots").mkdir()
        folder(place / "snapshots" / ("0" * 40), text)
    (tmp_path / "models--half--done").mkdir()
    found = offer()
    assert list(found.models) == ["reference", "glass-box", "some/seer", "some/writer"]
    assert found.models["some/seer"].family == "gemma3_text"
    assert (found.models["some/writer"].n_layers, found.unusable) == (7, ())


def test_a_gguf_file_is_offered_with_what_its_weights_are_made_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, _ = build_tiny("llama", num_hidden_layers=6, intermediate_size=64)
    file = write_gguf(tmp_path / "tiny.gguf", module, quantised="Q8_0")
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:100])
    (tmp_path / "odd.gguf").write_bytes(file.read_bytes().replace(b"llama", b"mamba"))
    monkeypatch.setenv("ENGRAM_MODELS", f"mine={file},cut={tmp_path}/cut.gguf,odd={tmp_path}/odd.gguf")
    found = offer()
    assert (found.models["mine"].n_layers, found.models["mine"].origin) == (6, "dequantised from Q8_0")
    cut, odd = found.unusable
    assert cut.startswith("the model 'cut' of ENGRAM_MODELS cannot be used: 'cut.gguf' ends within its header")
    assert odd.startswith(
        "the model 'odd' of ENGRAM_MODELS cannot be used: 'odd.gguf' holds a model of the family 'mamba'"
    )
    model = Shelf().get("mine")
    assert (model.name, model.n_layers, model.origin) == ("mine", 6, "dequantised from Q8_0")
    converted = [choice for choice in choices().values() if choice.title == "tiny.gguf"]
    assert [(choice.n_layers, choice.origin) for choice in converted] == [(6, "dequantised from Q8_0")]


def test_junk_is_said_once_on_the_page_which_works(
    new_page: NewPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = os.environ["ENGRAM_MODELS"]
    monkeypatch.setenv("ENGRAM_MODELS", f"{tiny},junk,gone={tmp_path}/nowhere")
    page = new_page()
    assert len([warning for warning in page.warning if "ENGRAM" in warning.value]) == 2
    assert not page.button(key="run_trace").disabled
    assert page.selectbox(key="model").options[0].startswith("reference")


def test_a_key_holds_how_a_model_is_loaded_where_that_is_not_as_usual() -> None:
    plain = choices()["reference"]
    half = plain.loaded_with("auto", "bfloat16")
    assert (plain.key, half.key) == ("reference", "reference|auto|bfloat16")
    assert choice_of(half.key) == half
    assert choice_of("reference").settings == AS_USUAL
    with pytest.raises(ValueError, match="'gpt9' is not offered here; choose from reference"):
        choice_of("gpt9|auto|float16")


def test_the_layer_to_start_from_is_a_share_of_the_depth_or_the_published_one() -> None:
    assert [Choice("x", "x", n).usual.layer for n in (1, 12, 30)] == [0, 2, 6]
    assert Choice("x", "x", 48, family="gpt2", d_model=1600).usual.layer == 17


def test_the_layer_to_start_from_is_that_of_a_layer_card() -> None:
    assert choices()["reference"].usual.source == "measured on its size"


def test_the_size_of_a_folder_is_read_so_that_its_published_layers_are_found(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 24, "n_embd": 1024}')
    found = _added(f"mine={tmp_path}")
    assert (found.usual.layer, found.usual.source) == (8, "published")
