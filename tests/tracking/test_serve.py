"""`latent ui` without a server: what it would start, and what it opens."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.tracking import store, ui


def test_the_server_gets_the_store_without_its_password_in_the_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    opened: list[str] = []
    ended = iter([None, None])

    def popen(command: list[str], env: dict[str, str]) -> Any:
        started.append((command, env))
        return SimpleNamespace(poll=lambda: next(ended, None), wait=lambda: 0, terminate=lambda: None)

    answers = iter([False, True])  # the port is free, then the server listens
    uri = "postgresql://me:hunter2@host/mlflow"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(ui, "sync", lambda: (0, 0))
    monkeypatch.setattr(ui, "_answers", lambda port: next(answers))
    monkeypatch.setattr(ui.subprocess, "Popen", popen)
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    monkeypatch.setattr(store, "connected", lambda: nullcontext((None, "7")))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert ui.serve(5055) == 0
    ((command, environment),) = started
    assert "hunter2" not in " ".join(command)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5055"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    printed = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert opened == printed[:1], "the first link"
    assert printed[0].startswith("http://127.0.0.1:5055/#/experiments/7/")
