"""An MLflow server that is killed, hangs, is slow or answers nonsense: the training ends well, and after sync nothing is lost."""

import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import suppress
from urllib.request import urlopen

from tests.stages.test_repro import environment
from tests.torture.checks import Case, case
from tests.torture.lab import CANARY, COMMANDS, KILL, LATENT, OUTS, Lab, group, wait_until
from tests.torture.store import Store


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class MLflowServer:
    """`mlflow server` on a port of this machine, with sqlite."""

    def __init__(self, lab: Lab) -> None:
        self.folder, self.port = lab.folder / "server", free_port()
        self.folder.mkdir(exist_ok=True)
        (self.folder / "mlflow.db").write_bytes((lab.folder / "bare" / "mlflow.db").read_bytes())
        self.start()

    def start(self) -> None:
        own = environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        uri, place = f"sqlite:///{self.folder}/mlflow.db", self.folder / "artifacts"
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1", "--artifacts-destination", str(place)]
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, *options]
            self.process = subprocess.Popen(command, cwd=self.folder, env=own, stdout=log, stderr=log, start_new_session=True)
        assert wait_until(self.answers, 120, 0.1), "the MLflow server did not start"

    def answers(self) -> bool:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as response:
            return bool(response.status == 200)
        return False

    def send(self, number: int) -> None:
        """Send a signal to all processes of the server."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.send(KILL)
        self.process.wait()
        wait_until(lambda: not group(self.process.pid), 5)


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on until ``faulty`` of them have come, then does what ``fault`` says until ``over``."""

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, server: MLflowServer, fault: str, after: int) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.server, self.fault, self.after, self.requests, self.over = server, fault, after, 0, threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Stay silent when a client hangs up."""


ANSWER = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
ANSWERS = {
    "503": ANSWER % (b"503 Busy", 0, b""),
    "403": ANSWER % (b"403 Forbidden", 9, b"forbidden"),
    "401": ANSWER % (b"401 Unauthorized", 0, b""),
    "HTML": ANSWER % (b"200 OK", 19, b"<html>log in</html>"),
    "empty JSON": ANSWER % (b"200 OK", 2, b"{}"),
    "garbage": b"\0\1\2\3\r\n\r\n",
}


class Connection(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        request = self.receive()
        while request:
            self.server.requests += 1
            bad = self.server.requests > self.server.after and not self.server.over.is_set()
            if bad and self.server.fault == "slow":
                self.server.over.wait(1.5)
            elif bad and self.server.fault == "hang":
                self.server.over.wait(60)
                return
            elif bad and self.server.fault == "reset":
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                return
            elif bad:
                self.request.sendall(ANSWERS[self.server.fault])
                return
            with socket.create_connection(("127.0.0.1", self.server.server.port), timeout=60) as there:
                there.sendall(
                    re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", request).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                )
                while part := there.recv(1 << 16):
                    self.request.sendall(part)
            return

    def receive(self) -> bytes:
        """Return a whole request."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (part := self.request.recv(1 << 16)):
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = int((re.search(rb"(?i)content-length: (\d+)", head) or [0, 0])[1])
        while len(body) < length:
            body += self.request.recv(1 << 16)
        return head + b"\r\n\r\n" + body


FAULTS = ["killed", "503", "hung", "reset", "slow", "403", "refusing", "HTML", "hang", "401", "garbage", "empty JSON"]


@case("server")
def server(case: Case) -> None:
    """Each fault at some request of a training, then sync with the server as it should be."""
    mlflow = MLflowServer(case.lab)
    try:
        for index in case.quota(18):
            one(case, mlflow, FAULTS[index % len(FAULTS)], f"run{index}")
            if case.over():
                return
    finally:
        mlflow.send(signal.SIGCONT)
        mlflow.kill()


def one(case: Case, mlflow: MLflowServer, fault: str, experiment: str) -> None:
    """Train with a server that fails after some requests, mend it, sync, and look into its database."""
    repo = case.lab.repo(case.name, bare_store=True, without=OUTS["train_vae"])
    after = case.random.choice([0, 1, 2, 4, 6, 8, 10, 14, 20])
    where, started = f"{fault} after {after} requests", time.monotonic()
    proxy = Proxy(mlflow, fault, after if fault not in ("killed", "hung", "refusing") else 10**9)
    port = free_port() if fault == "refusing" else proxy.server_address[1]
    own = {"MLFLOW_EXPERIMENT_NAME": experiment, "MLFLOW_TRACKING_URI": f"http://user:{CANARY}@127.0.0.1:{port}"}
    job = case.lab.fork(repo, COMMANDS["train_vae"], "train_vae", own=own, checkpoint_seconds=0)
    if fault in ("killed", "hung"):
        wait_until(lambda: proxy.requests > after or job.code() is not None, 60, 0.001)
        mlflow.kill() if fault == "killed" else mlflow.send(signal.SIGSTOP)
    case.tally.counts["injected"] += 1
    case.read(job, where)
    case.same_bytes(repo, OUTS["train_vae"], where)
    proxy.over.set()
    if fault == "hung":
        mlflow.send(signal.SIGCONT)
    if fault == "killed":
        mlflow.start()
    own["MLFLOW_TRACKING_URI"] = f"http://user:{CANARY}@127.0.0.1:{proxy.server_address[1]}"
    case.read(case.lab.fork(repo, (*LATENT, "sync"), own=own), f"sync after {where}")
    case.store_holds(Store.of(mlflow.folder / "mlflow.db", experiment), case.wanted("train_ae", "train_vae"), where)
    case.clean(repo, where)
    if CANARY in (mlflow.folder / "mlflow.db").read_bytes().decode("latin-1"):
        case.find("leaked", f"{where}: the secret is in the server's database")
    if time.monotonic() - started > 120:
        case.find("", f"{where}: {time.monotonic() - started:.0f} s")
    proxy.shutdown()
    proxy.server_close()
    case.settle()
