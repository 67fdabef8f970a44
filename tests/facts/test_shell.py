"""Command lines speak the language of the locale: the first line of their help, and their errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from facts.language import shell

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("locale", "code"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LANGUAGE": "fr:zh_CN", "LC_ALL": "en_US.UTF-8"}, "zh"),
        ({"LANGUAGE": "en_GB:zh"}, "en"),
        ({"LANGUAGE": "../zh"}, "en"),
    ],
)
def test_the_language_is_that_of_the_locale(locale: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in locale.items():
        monkeypatch.setenv(variable, value)
    assert shell.language() == code


def in_chinese(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engram", "models", *arguments]
    environment = os.environ | {"LANGUAGE": "zh_CN", "PYTHONUTF8": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, env=environment, check=False)


def test_help_and_errors_are_chinese() -> None:
    assert "可供入门的模型" in in_chinese("--help").stdout
    assert in_chinese("show", "nothing").stderr.startswith("错误：目录中没有 'nothing'；请从 reference")
    assert "缺少以下参数：NAME" in in_chinese("show").stderr, "argparse's own sentences too"


def test_english_is_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    shell.complain(ValueError("there is no file 'x'"))
    assert capsys.readouterr().err == "error: there is no file 'x'\n"
