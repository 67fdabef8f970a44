"""The page as Streamlit runs it, without a browser: what comes before torch, and what failures look like."""

import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.__main__ import MAIN, ROOT
from app.server import cache

ORDER = """
import sys
from streamlit.testing.v1 import AppTest
from app.server.jobs import Runner

def watched(self, key, label, work, asker, lane):
    assert "torch" not in sys.modules, "torch came before the first job"
    print("SUBMITTED AFTER PAINTING", label)
    raise SystemExit

Runner.submit = watched
page = AppTest.from_file("app/main.py", default_timeout=60)
page.run()
"""


def test_nothing_is_asked_of_the_worker_before_the_page_stands_and_torch_is_not_imported() -> None:  # check 1
    done = subprocess.run([sys.executable, "-c", ORDER], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "torch came before" not in done.stdout + done.stderr
    assert "SUBMITTED AFTER PAINTING Reading" in done.stdout, done.stderr


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model whose weights are broken, in the place of the bundled one."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 4}')
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    monkeypatch.setenv("ENGRAM_MODELS", f"reference={tmp_path}")
    cache.runner.clear()
    cache.shelf.clear()


@pytest.mark.usefixtures("no_models")
def test_a_model_that_cannot_be_loaded_is_a_sentence_and_the_form_stays() -> None:
    page = AppTest.from_file(str(MAIN), default_timeout=90).run()
    assert not page.exception
    assert len(page.error) == 1
    assert "not a whole safetensors file" in page.error[0].value
    assert page.text_input(key="prompt").value.startswith("The Space Needle")
    assert page.slider(key="layer").max == 3
    cache.runner.clear()
    cache.shelf.clear()
