"""The edits of a session, without a browser: several at once, undo of any, branches, files, the edited model."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.server import cache
from app.shared import export
from app.workbench import ledger
from editing import METHODS, apply_edits
from models import load_model

NewPage = Callable[..., AppTest]
OTHER = "The Eiffel Tower is located in the city of"


def quick(page: AppTest, method: str = "ft-m") -> AppTest:
    """The settings of a method that takes no time."""
    page.selectbox(key="method").set_value(method).run()
    page.number_input(key=f"{method}_steps").set_value(2)
    return page


def apply(page: AppTest) -> AppTest:
    page.button(key="apply_edit").click().run()
    assert not page.exception
    assert [error.value for error in page.error if "does not say" not in error.value] == []
    return page


def edit_other(page: AppTest, new: str = "Oslo") -> AppTest:
    """Edit a second fact beside the first."""
    page.text_input(key="prompt").set_value(OTHER)
    page.text_input(key="subject").set_value("Eiffel Tower")
    page.text_input(key="new").set_value(new)
    return apply(page)


def listed(page: AppTest) -> list[str]:
    """The lines of the ledger."""
    return [text.value.replace("\\", "") for text in page.markdown if " → " in text.value]


def edits(page: AppTest) -> tuple[str, ...]:
    keys: tuple[str, ...] = page.session_state["session"].ledger.edits()
    return keys


@pytest.fixture
def two_edits(new_page: NewPage) -> AppTest:
    """A page with two facts rewritten."""
    return edit_other(apply(quick(new_page(run="1", samples="2", layer="2"))))


def test_edits_and_map_come_back_with_their_model(two_edits: AppTest) -> None:
    kept = edits(two_edits)
    two_edits.selectbox(key="model").set_value("glass-box").run()
    assert edits(two_edits) == ()
    assert two_edits.session_state["session"].trace_ask is None
    two_edits.selectbox(key="model").set_value("reference").run()
    assert edits(two_edits) == kept
    assert two_edits.session_state["session"].trace_ask.model == "reference"
    assert len(listed(two_edits)) == 2


def test_every_method_has_a_form_with_all_its_numbers(new_page: NewPage) -> None:
    page = new_page(run="1", samples="2")
    for name, method in METHODS.items():
        page.selectbox(key="method").set_value(name).run()
        assert not page.exception, name
        drawn = {widget.key for kind in (page.number_input, page.selectbox, page.checkbox) for widget in kind}
        knobs = {knob.name: knob for knob in method.config_type.__dataclass_fields__.values()}
        expected = {
            f"{name}_{knob.name}"
            for knob in knobs.values()
            if knob.name not in ("layer", "fact_token")
            and (isinstance(knob.default, int | float) or knob.metadata.get("choices"))
        }
        assert expected <= drawn, name
        assert ("fact_token" in knobs) == ("fact_token" in drawn), name  # in words, beside the layer
        assert ("corpus" in knobs) == any(file.key == f"{name}_corpus" for file in page.get("file_uploader")), name


def test_a_second_fact_is_edited_with_the_first_in_the_model(two_edits: AppTest) -> None:
    first, second = cache.drawer().all(edits(two_edits))
    assert second.parents == (first.digest,)
    assert [line.split(" → ")[0] for line in listed(two_edits)] == [
        "1. The Space Needle is located in the city of",
        f"2. {OTHER}",
    ]
    assert any("2 edits are active" in caption.value for caption in two_edits.caption)


def test_the_same_prompt_is_edited_in_place(two_edits: AppTest) -> None:
    before = edits(two_edits)
    edit_other(two_edits, "Cairo")
    after = edits(two_edits)
    assert after[0] == before[0]
    assert len(after) == 2
    assert cache.drawer().all(after)[1].requests[0].target_new == "Cairo"
    replaced = "It stands in place of the earlier edit of this prompt."
    assert any(caption.value == replaced for caption in two_edits.caption)
    two_edits.button(key="undo").click().run()
    assert not any(caption.value == replaced for caption in two_edits.caption)


def test_undo_shows_the_scores_as_they_were_and_adds_no_run(two_edits: AppTest) -> None:
    mine = two_edits.session_state["session"]
    first, second = edits(two_edits)
    runs, alone = len(mine.runs), mine.scored[first, first]
    assert mine.score_ask == mine.scored[second, first, second] != alone
    two_edits.button(key="undo").click().run()
    assert mine.score_ask == alone
    assert len(mine.runs) == runs


def test_any_edit_can_be_undone_and_the_rest_scored_anew(two_edits: AppTest) -> None:
    first, second = edits(two_edits)
    two_edits.button(key=f"undo_{first}").click().run()
    assert edits(two_edits) == (second,)
    assert any("It was computed while another edit" in caption.value for caption in two_edits.caption)
    assert two_edits.session_state["session"].score_ask.active == (second,)
    assert not any(metric.label == "Reliability" and metric.value == "—" for metric in two_edits.metric)
    two_edits.button(key="undo").click().run()
    assert edits(two_edits) == ()
    assert all(metric.value == "—" for metric in two_edits.metric if metric.label == "Reliability")


def test_an_edit_that_fails_leaves_the_others_and_their_scores(two_edits: AppTest) -> None:
    first, second = edits(two_edits)
    own = two_edits.session_state["session"].look[1].answer
    two_edits.text_input(key="new").set_value(own)
    two_edits.button(key="apply_edit").click().run()
    assert any("equals the true answer" in error.value for error in two_edits.error)
    assert edits(two_edits) == (first, second)
    assert not any(metric.label == "Reliability" and metric.value == "—" for metric in two_edits.metric)
    two_edits.button(key="undo").click().run()  # the last active one, not the one that never was
    assert edits(two_edits) == (first,)
    assert not any("equals the true answer" in error.value for error in two_edits.error)


def test_branches_are_remembered_compared_and_switched_to(two_edits: AppTest) -> None:
    both = edits(two_edits)
    two_edits.text_input(key="branch_name").set_value(ledger.UNEDITED).run()
    two_edits.button(key="save_branch").click().run()
    assert "not free for a branch" in two_edits.toast[0].value
    two_edits.text_input(key="branch_name").set_value("both").run()
    two_edits.button(key="save_branch").click().run()
    two_edits.button(key=f"undo_{both[0]}").click().run()
    two_edits.selectbox(key="compare_left").set_value(ledger.CURRENT)
    two_edits.selectbox(key="compare_right").set_value("both").run()
    two_edits.button(key="compare").click().run()
    assert not two_edits.exception
    table = next(frame.value for frame in two_edits.dataframe if "both" in frame.value.columns)
    assert list(table.columns) == ["score", ledger.UNEDITED, ledger.CURRENT, "both", "facts"]
    assert table["facts"].iloc[0] == "2"
    two_edits.button(key="switch_both").click().run()
    assert edits(two_edits) == both


def test_an_edit_goes_into_a_file_and_comes_back(two_edits: AppTest, new_page: NewPage) -> None:
    (first, _) = cache.drawer().all(edits(two_edits))
    data = export._edit_file(first)
    page = new_page(run="1", samples="2")
    page.file_uploader(key="edit_file").set_value(("edit.safetensors", data, "application/octet-stream")).run()
    page.button(key="apply_file").click().run()
    assert not page.exception
    assert cache.drawer().all(edits(page))[0].digest == first.digest
    page.file_uploader(key="edit_file").set_value(("edit.safetensors", data[:-20], "application/octet-stream")).run()
    page.button(key="apply_file").click().run()
    wrong = [error.value for error in page.error if "not a saved edit" in error.value]
    assert len(wrong) == 1
    assert "/" not in wrong[0]  # not where the file lay
    assert len(edits(page)) == 1


def test_the_edited_model_loads_with_plain_transformers(two_edits: AppTest, tiny_folder: Path, tmp_path: Path) -> None:
    both = cache.drawer().all(edits(two_edits))
    with zipfile.ZipFile(io.BytesIO(export._model_zip(both, "reference"))) as archive:
        archive.extractall(tmp_path)
    base, merged = load_model(tiny_folder), load_model(tmp_path / "edited-model")
    for name, weight in apply_edits(base, both).module.state_dict().items():
        assert weight.equal(merged.module.state_dict()[name]), name
    assert merged.revision != base.revision
