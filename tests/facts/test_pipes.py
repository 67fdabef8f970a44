"""Commands that are cut short end quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    str(path.parent.relative_to(ROOT)).replace("/", ".")
    for package in ("app", "editing", "experiments", "facts", "models", "tracing")
    for path in sorted((ROOT / package).rglob("__main__.py"))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_line_outlives_its_reader(command: str) -> None:
    source = (ROOT / command.replace(".", "/") / "__main__.py").read_text(encoding="utf-8")
    _, _, at_the_end = source.partition('if __name__ == "__main__":\n')
    assert at_the_end.startswith("    outlive_reader()\n")


def test_a_reader_that_stops_early_is_no_error() -> None:
    file = ROOT / "tests" / "facts" / "importers" / "data" / "counterfact.json"
    command = [sys.executable, "-m", "facts.importers", str(file), "--preview", "3", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is printed, as `head -0` would
        assert process.stderr.read() == b""
    assert process.returncode == 0
    whole = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert '"format": "counterfact"' in whole.stdout


def test_ctrl_c_is_a_word_and_no_traceback() -> None:
    script = "from facts.pipes import outlive_reader\noutlive_reader()\nraise KeyboardInterrupt"
    stopped = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert stopped.returncode not in (0, 1)
    assert stopped.stderr == "\nstopped\n"
