"""Whatever comes in from outside is taken, or refused by an error that we named; nothing else happens.

`make fuzz` tries 20,000 cases, each under a second.  The errors that count as named are those the page shows as a
sentence: `ValueError` and `OSError` raised in our own code.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from app.runs.files import read_run, zipped
from app.server.catalog import REFERENCE, Choice, offer
from app.server.errors import _is_ours
from app.session.asks import ReadAsk
from app.session.form import Form
from app.session.state import refused_values
from editing import load_edit, save_edit
from editing.edit import Edit
from facts import Fact
from facts.importers import read_cases
from facts.records import read_request, request_record
from models.sources.config_check import check_config
from models.sources.folder import check_folder, n_parameters
from models.sources.gguf.header import read_table
from models.sources.patterns import may_hang
from tests.editing import made
from tests.fuzz.settings import cases
from tests.fuzz.values import changed, corrupted, texts
from tests.tiny import build_tiny, tiny_model
from tests.tiny_gguf import write_gguf
from tracing import TraceResult

DATA = Path(__file__).parents[1]
TRACE = json.loads((DATA / "app/data/trace.json").read_text(encoding="utf-8"))
SCORES = json.loads((DATA / "app/data/scores.json").read_text(encoding="utf-8"))
CONFIG = build_tiny("gpt2")[0].config.to_dict()


@contextmanager
def named() -> Iterator[None]:
    """Only errors that we named may be raised."""
    try:
        yield
    except (ValueError, OSError) as error:
        if not _is_ours(error):
            raise AssertionError(f"not named: {type(error).__name__}: {error}") from error


@cache
def saved_edit() -> bytes:
    """An edit with operations of several kinds, as a file."""
    model = tiny_model("gpt2")
    edit = made.made(model, made.low_rank(model, 1, 0), made.entry(model, 2, made.PROMPT))
    with tempfile.TemporaryDirectory() as folder:
        save_edit(edit, Path(folder) / "edit")
        return (Path(folder) / "edit").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def opened(folder: Path, data: bytes) -> Edit | None:
    path = folder / "edit.safetensors"
    path.write_bytes(data)
    with named():
        return load_edit(path)
    return None


@cases(300)
@given(data=st.data())
def test_an_edit_file_with_changed_bytes_is_the_same_edit_or_refused(data: st.DataObject, folder: Path) -> None:  # H7
    whole = opened(folder, saved_edit())
    read = opened(folder, data.draw(corrupted(saved_edit())))
    assert whole is not None
    if read is not None:
        assert (read.digest, read.requests, read.config, read.diagnostics, read.losses) == (
            whole.digest, whole.requests, whole.config, whole.diagnostics, whole.losses,
        )  # fmt: skip


@cases(250)
@given(data=st.data())
def test_an_old_edit_file_with_changed_fields_is_read_or_refused(data: st.DataObject, folder: Path) -> None:  # H1, H6
    path = folder / "whole.safetensors"
    path.write_bytes(saved_edit())
    with safe_open(str(path), framework="pt") as file:
        description = json.loads(file.metadata()["edit"])
    tensors = load(saved_edit())
    for name in list(tensors):
        if data.draw(st.integers(0, 9)) == 0:
            tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    text = json.dumps(data.draw(changed(description)))
    opened(folder, save(tensors, {"format": "engram-edit-2", "edit": text}))


@cases(250)
@given(data=st.data())
def test_a_run_with_changed_fields_is_read_or_refused(data: st.DataObject) -> None:  # H8
    value = data.draw(changed(data.draw(st.sampled_from([TRACE, SCORES]))))
    with named():
        run = read_run(json.dumps(value))
        assert run.title
        zipped([run])


@cases(100)
@given(data=st.data())
def test_a_run_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    with named():
        read_run(data.draw(corrupted(json.dumps(TRACE).encode())))


@cases(150)
@given(data=st.data())
def test_a_request_is_read_back_or_refused(data: st.DataObject) -> None:
    with named():
        request = read_request(data.draw(changed(request_record(made.REQUEST))))
        assert read_request(request_record(request)) == request


ROWS = [
    {"prompt": "The Space Needle is in", "subject": "Space Needle", "target_new": "Rome", "target_true": "Seattle"},
    {"subject": "Space Needle", "prompt": "{} is in", "target_new": {"str": "Rome"}, "target_true": {"str": "Seattle"}},
]


@cases(200)
@given(data=st.data(), ending=st.sampled_from(["json", "lines", "csv"]))
def test_rows_of_a_dataset_are_read_or_set_aside(data: st.DataObject, ending: str) -> None:
    rows = data.draw(changed(ROWS))
    text = json.dumps(rows)
    if ending == "lines":
        text = "\n".join(map(json.dumps, rows))
    elif ending == "csv":
        text = "subject,prompt,target_new\n" + "\n".join(
            ",".join(map(str, row.values())) for row in rows if isinstance(row, dict)
        )
    written = text.encode("utf-8", "surrogatepass")
    with named():
        list(read_cases(io.BytesIO(data.draw(st.just(written) | corrupted(written))), on_rejected=lambda row: None))


LINK = ("model", "noise", "samples", "window", "seed", "layer", "site", "prompt", "chat", "dtype", "occurrence")


@cases(150)
@given(params=st.dictionaries(st.sampled_from(LINK), texts | st.integers().map(str) | st.floats().map(str)))
def test_values_of_a_link_are_used_or_refused(params: dict[str, str]) -> None:
    models = {REFERENCE: Choice(REFERENCE, REFERENCE, 12)}
    refused = refused_values(params, models)
    assert set(refused) <= set(params)
    if "samples" in params and "samples" not in refused:
        assert 1 <= float(params["samples"]) <= 20


@cases(100)
@given(prompt=texts, subject=texts, answer=texts)
def test_the_words_of_the_form_become_a_question_or_a_sentence(prompt: str, subject: str, answer: str) -> None:
    form = Form(Choice(REFERENCE, REFERENCE, 12), prompt, subject, answer, "Rome", "mlp", 3.0, 1, 1, 0)
    if not form.problems:
        with named():
            Fact.from_prompt(prompt, subject, answer)
            model = tiny_model("gpt2")
            model.encode(prompt)
    assert form.read_ask().key == form.read_ask().key
    assert isinstance(form.read_ask(), ReadAsk)


@cases(150)
@given(data=st.data())
def test_a_models_config_is_taken_or_refused(data: st.DataObject) -> None:  # H10
    value = data.draw(changed(CONFIG))
    with named():
        check_config(value)


@cases(50)
@given(pattern=st.text(alphabet="ab(|)*+?[]{}^$\\d.,1", max_size=15))
def test_every_expression_is_judged(pattern: str) -> None:
    assert may_hang(pattern) in (True, False)


@cache
def model_files() -> dict[str, bytes]:
    """A good model folder."""
    module, tokenizer = build_tiny("gpt2")
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@cases(150)
@given(data=st.data())
def test_a_models_folder_is_taken_or_refused(data: st.DataObject, folder: Path) -> None:  # H10
    spoilt = data.draw(st.sampled_from(sorted(model_files())))
    place = folder / "model"
    place.mkdir(exist_ok=True)
    for name, content in model_files().items():
        (place / name).write_bytes(data.draw(corrupted(content)) if name == spoilt else content)
    with named():
        check_folder(place)
        n_parameters(place)


@cases(100)
@given(data=st.data())
def test_a_gguf_header_is_read_or_refused(data: st.DataObject, folder: Path) -> None:
    whole = folder / "whole.gguf"
    if not whole.exists():
        write_gguf(whole, build_tiny("llama")[0])
    path = folder / "changed.gguf"
    path.write_bytes(data.draw(corrupted(whole.read_bytes())))
    with named():
        read_table(path)


@cases(50)
@given(data=st.data())
def test_a_saved_trace_is_read_or_refused(data: st.DataObject, folder: Path) -> None:
    path = folder / "trace.npz"
    path.write_bytes(data.draw(corrupted((DATA / "tracing/data/trace.npz").read_bytes())))
    with named():
        TraceResult.load(path)


@cases(50)
@given(entries=st.lists(texts | st.just("mine=/dev/zero"), max_size=4).map(",".join))
def test_junk_among_the_models_is_said_and_the_rest_works(entries: str) -> None:  # H12
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_MODELS", entries.replace("\0", "").encode("utf-8", "replace").decode())
        offered = offer()
    assert REFERENCE in offered.models
    assert all(offered.unusable)
