"""Layer cards: which one a model gets, what is said of it, and files that are none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from editing.train.episodes import split_of
from models import cards
from models.cards import layer_choice, read_card
from models.published import PUBLISHED
from models.sources.catalogue import ENTRIES

ROOT = Path(__file__).parents[2]


def values(**changes: Any) -> dict[str, Any]:
    """A card's JSON, as the study writes it."""
    model = {"name": "tiny", "family": "gpt2", "n_layers": 24, "d_model": 1024, "revision": "a" * 64}
    best = {"layer": 7, "stands_out": True, "tied": [7], "score": 0.9, "interval": [0.8, 0.95], "settings": {}}
    whole = {"schema": 1, "model": model, "method": "r-rome", "n": 30, "recommended": best, "subjects": ["Rome"]}
    return whole | {"trace_layer": 3} | changes


def written(folder: Path, name: str = "card.json", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(values(**changes)), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cards, "SHIPPED", tmp_path / "shipped")


def test_a_card_of_the_weights_then_one_of_the_size_then_published_then_depth(tmp_path: Path) -> None:
    size = ("gpt2", 24, 1024)
    assert PUBLISHED[size] == (8,)
    choice = layer_choice(*size, "a" * 64)
    assert (choice.layer, choice.source, choice.card) == (8, "published", None)
    assert choice.sentence.startswith("Layer 8 is published for models of this family and size")
    written(tmp_path / "shipped")
    choice = layer_choice(*size, "b" * 64)
    assert (choice.layer, choice.source) == (7, "measured on its size")
    assert "measured on 30 facts of tiny, a model of the same family and size" in choice.sentence
    written(tmp_path / "cache" / "cards", model=values()["model"] | {"revision": "b" * 64, "name": "mine"})
    assert layer_choice(*size, "a" * 64).source == layer_choice(*size, "b" * 64).source == "measured"
    assert layer_choice(*size, "b" * 64).card.model == "mine"  # type: ignore[union-attr]
    other = layer_choice("gpt2", 12, 1024, "a" * 64)
    assert (other.layer, other.source) == (2, "depth")
    assert "a guess by depth" in other.sentence


def test_what_is_said(tmp_path: Path) -> None:
    best = values()["recommended"]
    card = read_card(written(tmp_path))
    assert layer_choice(*card.size, card.revision, card).sentence == (
        "Layer 7 was measured on 30 facts: score 0.90 (95 % interval 0.80 to 0.95)."
    )
    tied = best | {"stands_out": False, "tied": [4, 7, 9], "settings": {"stop_loss": 0.3}}
    card = read_card(written(tmp_path, "tied.json", recommended=tied))
    sentence = layer_choice(*card.size, card.revision, card).sentence
    assert "none stands out, layers 4, 9 do as well" in sentence
    two = read_card(written(tmp_path, "two.json", recommended=tied | {"tied": [4, 7]}))
    assert layer_choice(*two.size, two.revision, two).sentence.count("layer 4 does as well") == 1
    assert sentence.endswith("r-rome does better there with stop_loss=0.3.")


def test_a_given_card_must_be_of_such_a_model(tmp_path: Path) -> None:
    card = read_card(written(tmp_path))
    assert layer_choice("gpt2", 24, 1024, "c" * 64, card).source == "measured on its size"
    with pytest.raises(ValueError, match=r"the card is of tiny \(gpt2, 24 layers of width 1024\), and this model is"):
        layer_choice("gpt2", 12, 1024, "", card)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no layer card"),
        ("[]", "is no layer card"),
        ("{}", "KeyError: 'schema'"),
        (json.dumps(values(schema=2)), "has format 2; this version reads 1"),
        (
            json.dumps(values(recommended=values()["recommended"] | {"layer": 24})),
            "recommends layer 24 of a model with",
        ),
        (json.dumps(values(n="many")), "is no layer card|invalid literal"),
    ],
)
def test_files_that_are_no_cards(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "shipped" / "card.json"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_card(path)
    assert cards.cards() == ()  # one bad file costs no edit
    with pytest.raises(FileNotFoundError, match="there is no layer card"):
        read_card(tmp_path / "none.json")


def test_a_rewritten_card_is_read_anew(tmp_path: Path) -> None:
    path = written(tmp_path / "shipped")
    assert layer_choice("gpt2", 24, 1024).layer == 7
    written(tmp_path / "shipped", recommended=values()["recommended"] | {"layer": 11})
    path.touch()
    assert layer_choice("gpt2", 24, 1024).layer == 11


def test_cards_are_readable_without_torch() -> None:
    script = "import models.cards, sys; models.cards.cards(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_cards_that_ship_are_of_models_of_the_catalogue() -> None:
    shipped = [read_card(path) for path in sorted((ROOT / "models" / "layer_cards").glob("*.json"))]
    sizes = {name: (entry.family, entry.n_layers, entry.d_model) for name, entry in ENTRIES.items()}
    assert "reference" in {card.model for card in shipped}
    for card in shipped:
        assert card.size == sizes[card.model]
        assert card.n >= 30
        assert not any(split_of(subject) == "test" for subject in card.subjects)
        assert card.stands_out == (card.tied == (card.layer,))
        low, high = card.interval
        assert low <= card.score <= high
