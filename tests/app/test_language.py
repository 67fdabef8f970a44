"""The words of the page in Chinese: none is missing, every value keeps its place, and a switch keeps the fields."""

import re
import threading
from collections.abc import Callable

import pytest
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from streamlit.testing.v1 import AppTest

from app.language import say
from app.language.extract import SENTENCE, untranslated
from facts.language import catalogue
from facts.language.catalogue import names_in, po_file
from models.cards import layer_choice

NewPage = Callable[..., AppTest]


@pytest.fixture(scope="module")
def known() -> Catalog:
    with po_file("zh").open("rb") as file:
        return read_po(file, locale="zh", abort_invalid=True)


def test_nothing_is_missing() -> None:
    """`python -m app.language extract` puts what is new into the .po file; write its Chinese there."""
    assert [f"{word.place}: {word.text}" for word in untranslated()] == []


def test_no_translation_is_a_guess(known: Catalog) -> None:
    assert [message.id for message in known if message.id and message.fuzzy] == []


def test_values_keep_their_places(known: Catalog) -> None:
    """A sentence from elsewhere may drop a name that only makes an English plural."""
    for message in known:
        texts = list(message.id) if isinstance(message.id, tuple) else [message.id]
        made = list(message.string) if isinstance(message.string, tuple) else [message.string]
        for text in filter(None, made):
            if SENTENCE in message.auto_comments:
                assert set(names_in(text)) <= set(names_in(texts[0])), text
            else:
                assert sorted(names_in(text)) == sorted(names_in(texts[-1])), text


def test_bold_words_end_where_markdown_sees_it(known: Catalog) -> None:
    """`**词：**词` stays as it is: a closing mark between a punctuation mark and a letter closes nothing."""
    for message in known:
        for text in message.string if isinstance(message.string, tuple) else [message.string]:
            bold = re.findall(r"\*\*.+?\*\*.?", text or "")
            assert [part for part in bold if re.search(r"[，。：；、！？）”]\*\*\w", part)] == [], text


def test_the_compiled_file_is_made_when_the_source_is_newer(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "xx.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\nmsgid "a"\nmsgstr "b"\n'
    )
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    monkeypatch.setattr(catalogue, "compiled", lambda language: _compiled(tmp_path / "xx.po"))
    assert catalogue.translations.__wrapped__("xx").gettext("a") == "b"
    assert (tmp_path / "xx" / "LC_MESSAGES" / "engram.mo").exists()


def _compiled(path) -> bytes:  # type: ignore[no-untyped-def]
    import io

    from babel.messages.mofile import write_mo

    made = io.BytesIO()
    with path.open("rb") as file:
        write_mo(made, read_po(file))
    return made.getvalue()


def in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(say, "current", lambda: "zh")


def test_a_finished_sentence_is_known_by_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    in_chinese(monkeypatch)
    assert say.said("Noise 3.0 σ") == "噪声 3.0 σ"
    assert say.said("At most 40 files") == "At most 40 files", "what fits no template stays English"


def test_sentences_and_values_that_meet_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    in_chinese(monkeypatch)
    first = "At ␣Tower no layer stands out: the largest effect is 0.006 at layer 16"
    interval = " (95 % CI -0.004 to 0.016, corrected for 30 cells)"
    second = "Token iffel carries more, 0.543 at layer 3: edit there, or compare every layer."
    spoken = say.said(f"{first}{interval}. {second}")
    assert spoken == say.said(f"{first}{interval}.") + say.said(second)
    assert re.findall(r"[a-z]{3,}", spoken.replace("iffel", "").replace("Tower", "")) == []


def test_where_a_layer_comes_from_is_all_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    in_chinese(monkeypatch)
    measured = layer_choice("llama", 30, 576, "of another model")
    assert measured.card is not None
    assert not measured.card.stands_out
    for choice in (measured, layer_choice("gpt2", 7, 11), layer_choice("gpt2", 48, 1600)):
        assert re.findall(r"[a-z]{3,}", say.said(choice.sentence).replace(measured.card.model, "")) == []


def test_english_is_as_written() -> None:
    assert say.say("{n} facts", n=3) == "3 facts"
    assert say.say_count("{n} worker", "{n} workers", 1) == "1 worker"


def test_a_thread_without_a_session_speaks_english() -> None:
    spoken: list[str] = []
    thread = threading.Thread(target=lambda: spoken.append(say.say("Cancel")))
    thread.start()
    thread.join()
    assert spoken == ["Cancel"]


def test_the_switch_keeps_what_was_chosen(new_page: NewPage) -> None:  # check 24
    page = new_page()
    page.switch_page("batch/page.py").run()
    assert page.title[0].value == "Batch"
    page.segmented_control(key="batch_what").set_value("edit").run()
    page.number_input(key="batch_facts_edit").set_value(7).run()
    page.segmented_control(key="language").set_value("zh").run()
    assert page.title[0].value == "批量"
    assert page.segmented_control(key="batch_what").value == "edit"
    assert page.number_input(key="batch_facts_edit").value == 7
    assert page.query_params["lang"] == "zh"


def test_the_workbench_opens_in_chinese(new_page: NewPage) -> None:
    page = new_page(lang="zh")
    assert page.text_input(key="prompt").label == "提示"
    assert "运行追踪" in [button.label for button in page.button]
