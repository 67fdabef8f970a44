"""What the catalogue says of SmolLM2 is what was fetched."""

from models import LanguageModel
from models.sources.catalogue import ENTRIES, folder_of, is_fetched
from models.sources.manifest import read_manifest
from tests.real.conftest import NAME

ENTRY = ENTRIES["smollm2-135m"]


def test_sizes_and_origin_are_those_of_the_entry(smollm2: LanguageModel) -> None:
    assert sum(parameter.numel() for parameter in smollm2.module.parameters()) == ENTRY.parameters
    assert (smollm2.architecture.family, smollm2.n_layers, smollm2.d_model) == ("llama", 30, 576)
    if ENTRY.name == NAME:  # a copy in a folder says nothing of where it came from
        assert smollm2.origin == ENTRY.origin == "dequantised from Q4_1 and Q8_0"
        assert is_fetched(NAME)
        assert ENTRY.index is not None
        assert read_manifest(folder_of(NAME), "")["source_sha256"] == ENTRY.index.sha256


def test_the_tokenizer_came_with_its_chat_template_and_takes_digits_one_by_one(smollm2: LanguageModel) -> None:
    assert "<|im_start|>" in smollm2.tokenizer.chat_template
    assert [smollm2.decode([i]) for i in smollm2.encode("1969")] == ["1", "9", "6", "9"]
