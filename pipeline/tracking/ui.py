"""``latent ui``: MLflow's pages on this machine, with links to the views of the runs."""

import os
import subprocess
import sys
import time
import webbrowser
from socket import socket

import click

from pipeline.errors import BusyError, PipelineError, redact
from pipeline.tracking import store
from pipeline.tracking.pages import links
from pipeline.tracking.sync import sync

HOST = "127.0.0.1"  # MLflow asks for no password


def _answers(port: int) -> bool:
    with socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _show(server: str) -> None:
    """Print the links to the views on a server, and open the first in a browser where there is a terminal and a screen."""
    with store.connected() as (_, experiment):
        places = {title: f"{server}/{link}" for title, link in links(experiment).items()}
    for title, place in places.items():
        click.echo(f"{title}: {place}")
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and has_screen:
        webbrowser.open(next(iter(places.values())))


def serve(port: int) -> int:
    """Complete the runs and show them in MLflow, in a server of its own until that ends; return its exit code.

    Where MLFLOW_TRACKING_URI names a server, that one has the pages. Raises BusyError when another program uses the port.
    """
    uri = store.store_uri()
    if not uri.startswith("http") and _answers(port):
        raise BusyError(f"another program uses port {port}; choose a free one: make ui PORT={port + 1}")
    try:
        sync()
    except PipelineError as error:  # what is there is shown
        click.echo(f"note: some runs may be missing: {error}", err=True)
    if uri.startswith("http"):
        _show(redact(uri).rstrip("/"))  # a browser asks for the password
        return 0
    # The address may have a password, so it is no argument, which all users of the machine see.
    own = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"} | os.environ | own
    command = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=environment)
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.1)
        if server.poll() is None:
            _show(f"http://{HOST}:{port}")  # below what MLflow prints when it starts
        return server.wait()
    finally:
        server.terminate()
        server.wait()
