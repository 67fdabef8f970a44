"""SmolLM2 135M for the tests of this folder, fetched once by `python -m models get smollm2-135m`."""

import os
from pathlib import Path

import pytest

from models import LanguageModel, load_model

NAME = os.environ.get("ENGRAM_REAL_MODEL") or "smollm2-135m"
"""Another name or a folder may be given, for a copy of the same model that lies elsewhere."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The model in float32, one for the session, so never write to it.

    Where it was not fetched the tests are skipped, or fail where ENGRAM_REQUIRE_REAL_MODEL=1 demands them.
    """
    try:
        return load_model(NAME)
    except (FileNotFoundError, ValueError) as error:
        reason = f"these tests need a pretrained model: {error}"
        if os.environ.get("ENGRAM_REQUIRE_REAL_MODEL") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def own_cache(tmp_path: Path, smollm2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for one test, so that nothing estimated earlier is reused; the model was loaded before."""
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
