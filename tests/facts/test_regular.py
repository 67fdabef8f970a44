"""A pipe among the paths a user can give: refused in a sentence wherever a file is read, never waited for."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from editing.files import load_edit
from editing.parts.moments import moment_for
from editing.parts.settings import MomentSettings
from experiments.plan_files import read_plan_file
from facts.importers import detect, read_facts
from facts.regular import check_regular
from models import load_model
from models.sources.load import REFERENCE_FOLDER
from tests.tiny import tiny_model
from tracing.engine.averaging import _Journal
from tracing.storage import read


def moment_of(corpus: str) -> Any:
    return moment_for(tiny_model("gpt2"), 0, MomentSettings(corpus=corpus))


@pytest.mark.parametrize(
    "reader",
    [detect, load_edit, read_facts, read, read_plan_file, moment_of, lambda path: _Journal.open(path, {})],
    ids=["dataset", "edit", "facts", "trace", "plan", "corpus", "journal"],
)
def test_a_pipe_is_refused_in_one_sentence(reader: Callable[[str], Any], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"pipe\.csv' cannot be read \(it is a pipe, not an ordinary file\); \w+"):
        reader(str(pipe))


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "model.safetensors"])
def test_a_pipe_in_a_model_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(REFERENCE_FOLDER, folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=rf"{name}' cannot be read \(it is a pipe.*; remove it"):
        load_model(folder)


def test_links_are_followed_and_devices_and_folders_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    check_regular(tmp_path / "link", "")
    check_regular(tmp_path / "nothing", "")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="a device"):
        check_regular(tmp_path / "zero", "")
    with pytest.raises(ValueError, match="a folder"):
        check_regular(tmp_path, "")
