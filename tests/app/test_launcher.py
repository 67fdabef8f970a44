"""streamlit_config.toml is really read, both ways the page can be started."""

import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from streamlit import config

from app.__main__ import MAIN, ROOT, SERVE, SETTINGS, environment


def test_every_key_is_handed_over_under_the_name_streamlit_knows() -> None:
    known = {option.env_var: name for name, option in config.get_config_options().items()}
    values = environment()
    assert set(values) <= set(known)
    assert values["STREAMLIT_SERVER_ADDRESS"] == "127.0.0.1"
    assert values["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] == "false"
    assert values["STREAMLIT_THEME_DARK_PRIMARY_COLOR"].startswith("#")


def test_the_link_beside_the_script_is_the_same_file() -> None:
    beside = MAIN.parent / ".streamlit" / "config.toml"
    assert beside.resolve() == SETTINGS
    assert tomllib.loads(beside.read_text())["client"]["showErrorDetails"] == "none"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "command", [["-m", "app"], ["-m", "streamlit", "run", str(MAIN)]], ids=["launcher", "streamlit"]
)
def test_a_started_server_obeys_the_file(command: list[str], tmp_path: Path) -> None:
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    environment |= {"HOME": str(tmp_path), "STREAMLIT_SERVER_PORT": str(port), "STREAMLIT_SERVER_HEADLESS": "true"}
    log = tmp_path / "server.txt"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            wait_until_healthy(port, server, log)
            answers = {host: status_of_a_connection(port, host) for host in HOSTS}
            told = log.read_text()
        finally:
            server.terminate()
            server.wait(20)
    # The file's address: without it Streamlit binds every interface and prints its network URL.
    assert f"127.0.0.1:{port}" in told
    assert answers == HOSTS
    assert "Network URL" not in told
    # gatherUsageStats = false: without it the first start says that statistics are collected.
    assert "usage statistics" not in told.lower()


HOSTS = {"localhost": 101, "127.0.0.1": 101, "[::1]": 101, "evil.example": 403, "127.0.0.1.evil.example": 403}
"""Names a browser may ask for, and what the server answers: 101 begins a session, 403 refuses it."""


def status_of_a_connection(port: int, host: str) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        lines = (
            "GET /_stcore/stream HTTP/1.1",
            f"Host: {host}:{port}",
            f"Origin: http://{host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version: 13",
        )
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(100).split()[1])


def wait_until_healthy(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not answer: {log.read_text()}")


def test_the_environment_of_the_user_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.web import cli

    from app.__main__ import main

    called = []
    monkeypatch.setattr(cli, "main", lambda arguments, prog_name: called.append(arguments))
    monkeypatch.setattr(os, "environ", {"STREAMLIT_SERVER_ADDRESS": "0.0.0.0"})
    main(["--server.port", "1234"])
    assert os.environ["STREAMLIT_SERVER_ADDRESS"] == "0.0.0.0"
    assert os.environ["STREAMLIT_CLIENT_TOOLBAR_MODE"] == "minimal"
    assert called == [["run", str(SERVE), "--server.port", "1234"]]


@pytest.mark.parametrize(
    ("flags", "variables", "hosts"),
    [
        ([], {}, "localhost 127.0.0.1 ::1"),
        (["--server.address=10.0.0.7"], {}, "localhost 127.0.0.1 ::1 10.0.0.7"),
        (["--server.address", "lab"], {"ENGRAM_ALLOWED_HOSTS": "a.b, lab"}, "localhost 127.0.0.1 ::1 lab a.b"),
        ([], {"STREAMLIT_SERVER_ALLOWED_HOSTS": "one"}, "one"),
    ],
)
def test_the_names_the_page_answers_to(
    flags: list[str], variables: dict[str, str], hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.web import cli

    from app.__main__ import main

    monkeypatch.setattr(cli, "main", lambda arguments, prog_name: None)
    monkeypatch.setattr(os, "environ", dict(variables))
    main(flags)
    assert os.environ["STREAMLIT_SERVER_ALLOWED_HOSTS"] == hosts


def test_paths_of_the_server_have_a_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.web import cli

    from app.__main__ import main

    called = []
    monkeypatch.setattr(cli, "main", lambda arguments, prog_name: called.append(arguments))
    monkeypatch.setattr(os, "environ", {})
    main(["--server-paths"])
    assert (os.environ["ENGRAM_SERVER_PATHS"], called) == ("1", [["run", str(SERVE)]])


def test_help_is_a_sentence_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamlit.web import cli

    from app.__main__ import main

    monkeypatch.setattr(cli, "main", lambda arguments, prog_name: pytest.fail("Streamlit was started"))
    main(["--help"])
    shown = capsys.readouterr().out
    assert "--public" in shown
    assert len(shown.splitlines()) == 1


def ask_doctor(*flags: str, **variables: str) -> tuple[int, list[str]]:
    """(exit code, names of the checks that fail)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMLIT_", "ENGRAM_"))}
    done = subprocess.run(
        [sys.executable, "-m", "app", *flags], cwd=ROOT, env=environment | variables, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    failing = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("FAILS")]
    return done.returncode, [name for name in failing if name not in ("user", "disk", "open", "folder")]


def test_a_public_server_does_not_start_unless_it_is_safe() -> None:  # H2
    assert ask_doctor("--public") == (1, ["allowed"])
    assert ask_doctor("--public", ENGRAM_CLASS_LINK="http://10.0.0.7:8501/") == (1, ["allowed"])
    unsafe = ask_doctor(
        "--public", "--server-paths", "--server.address=0.0.0.0", "--client.showErrorDetails", "full",
        ENGRAM_ALLOWED_HOSTS="*", STREAMLIT_SERVER_MAX_UPLOAD_SIZE="50", ENGRAM_SESSIONS="none",
        ENGRAM_MODELS="mine=/nowhere", STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION="false",
    )  # fmt: skip
    assert unsafe == (
        1,
        [
            "address", "allowed", "paths", "client.showErrorDetails", "server.enableXsrfProtection",
            "server.maxUploadSize", "limits", "ENGRAM_MODELS",
        ],
    )  # fmt: skip


def test_the_doctor_prints_every_check_and_nothing_fails_where_all_is_set() -> None:
    assert ask_doctor("doctor", ENGRAM_ALLOWED_HOSTS="lab.example.org")[1] == []
    proxied = ask_doctor(
        "doctor", ENGRAM_ALLOWED_HOSTS="lab.example.org", STREAMLIT_SERVER_ADDRESS="0.0.0.0", ENGRAM_BEHIND_PROXY="1"
    )
    assert proxied[1] == []


def test_a_public_server_offers_its_own_models_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.server import catalog

    monkeypatch.setenv("ENGRAM_PUBLIC", "1")
    monkeypatch.setenv("ENGRAM_MODELS", "")
    assert list(catalog.choices()) == ["reference", "glass-box"]  # both bundled
    with pytest.raises(ValueError, match="loads its models as float32 alone"):
        catalog.choice_of("reference|auto|bfloat16")
