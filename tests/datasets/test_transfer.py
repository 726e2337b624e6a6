"""The checked transfer, against mirrors that misbehave."""

import gzip
import hashlib
import itertools
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.datasets.idx import IdxDataset, idx_file
from pipeline.datasets.transfer import MAX_REDIRECTS, File, Patience, Unavailable, fetch
from pipeline.errors import IntegrityError, redact

SECRET = "hunter2-canary"
SHAPE = (300, 28, 28)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8).tobytes()
CONTENT = struct.pack(">4I", 0x803, *SHAPE) + PIXELS
ZIPPED = gzip.compress(CONTENT, 1)
FILE = idx_file("images", SHAPE, sha256=hashlib.sha256(CONTENT).hexdigest())
PAUSES: list[float] = []
QUICK = Patience(connect=1, read=0.2, total=0.3, min_rate=1e9, backoff=(1.0, 2.0), sleep=PAUSES.append)

Answer = Callable[["Handler"], object]


class Server(ThreadingHTTPServer):
    """A loopback mirror: ``answers`` by path, ``asked`` paths, and ``over`` to end what hangs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.over = threading.Event()
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, *_: object) -> None:
        """Stay silent when a client hangs up, which is what most tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers.get(self.path.partition("?")[0], status(404))(self)

    def log_message(self, *_: object) -> None:
        """No access log."""

    def begin(self, code: int = 200, /, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def forever(self, chunk: bytes, pause: float = 0) -> None:
        while not self.server.over.wait(pause):
            self.server.sent += self.connection.send(chunk)


def status(code: int) -> Answer:
    return lambda handler: handler.begin(code, Content_Length=0)


def body(content: bytes, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin(Content_Length=len(content), **headers)
        handler.wfile.write(content)

    return answer


def turns(*answers: Answer) -> Answer:
    remaining = iter(answers)
    return lambda handler: next(remaining)(handler)


def redirect(location: str) -> Answer:
    return lambda handler: handler.begin(302, Location=location, Content_Length=0)


def reset_at_half(handler: Handler) -> None:
    handler.begin(Content_Length=len(ZIPPED))
    handler.wfile.write(ZIPPED[: len(ZIPPED) // 2])
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def cut_at_half(handler: Handler) -> None:
    handler.begin(Content_Length=len(ZIPPED))
    handler.wfile.write(ZIPPED[: len(ZIPPED) // 2])


def drip_body(handler: Handler) -> None:
    handler.begin(Content_Length=len(ZIPPED))
    handler.forever(b"\x1f", pause=0.02)


def drip_header(handler: Handler) -> None:
    handler.connection.send(b"HTTP/1.0 200 OK\r\nX-Slow: ")
    handler.forever(b"x", pause=0.02)


def endless(handler: Handler) -> None:
    handler.begin()
    handler.forever(CONTENT[:16] * 999)


def endless_redirect_body(handler: Handler) -> None:
    handler.begin(302, Location="/moved")
    handler.forever(bytes(1 << 16))


def endless_length_of_a_chunk(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.begin(Transfer_Encoding="chunked")
    handler.forever(b"0" * (1 << 16))


def endless_trailer(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.begin(Transfer_Encoding="chunked")
    handler.connection.send(b"2\r\n\x1f\x8b\r\n0\r\n")
    handler.forever(b"X: y\r\n", pause=0.001)


def endless_continue(handler: Handler) -> None:
    handler.forever(b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001)


def slow_headers(handler: Handler) -> None:
    handler.connection.send(b"HTTP/1.1 200 OK\r\n")
    handler.forever(b"X: y\r\n", pause=0.01)


def endless_chunks(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.begin(Transfer_Encoding="chunked")
    handler.forever(b"1\r\n\x1f\r\n", pause=0.01)


def says(lines: str, content: bytes = b"", code: str = "200 OK") -> Answer:
    """Return an answer with these lines as its header, whatever they are."""
    return lambda handler: handler.connection.sendall(f"HTTP/1.1 {code}\r\n{lines}\r\n\r\n".encode("latin-1") + content)


def https_of_its_own(handler: Handler) -> None:
    handler.begin(302, Location=handler.server.url.replace("http:", "https:") + "images.gz", Content_Length=0)


BOMB = gzip.compress(CONTENT[:16] + bytes(40_000_000), 9)


FAULTS: dict[str, tuple[Answer, type[Exception], str]] = {
    "404": (status(404), Unavailable, "HTTP 404"),
    "403": (status(403), Unavailable, "HTTP 403"),
    "204": (status(204), Unavailable, "HTTP 204"),
    "503 without end": (status(503), Unavailable, "HTTP 503"),
    "reset at half": (reset_at_half, Unavailable, "error"),
    "cut at half": (cut_at_half, Unavailable, "protocol error"),
    "drip": (drip_body, Unavailable, "gave up after"),
    "drip in the header": (drip_header, Unavailable, "gave up after"),
    "accept and hang": (lambda handler: handler.forever(b"", pause=9), Unavailable, "timeout|gave up"),
    "redirect loop": (redirect("/images.gz"), Unavailable, "too many redirects"),
    "redirect to file:": (redirect("file:///etc/passwd"), Unavailable, "invalid schema"),
    "endless length of a chunk": (endless_length_of_a_chunk, Unavailable, "error"),
    "endless trailer": (endless_trailer, Unavailable, "gave up after"),
    "endless continue": (endless_continue, Unavailable, "gave up after"),
    "no HTTP": (lambda handler: handler.wfile.write(b"garbage\r\n\r\n"), Unavailable, "protocol error|bad status|connection"),
    "truncated gzip": (body(ZIPPED[:-9]), IntegrityError, "truncated or damaged gzip"),
    "damaged gzip": (body(ZIPPED[:50] + b"\0\0\0\0" + ZIPPED[54:]), IntegrityError, "gzip|header|sha256"),
    "gzip bomb": (body(BOMB), IntegrityError, "more bytes"),
    "gzip of many parts": (body(gzip.compress(b"") * 14_000), IntegrityError, "too many parts"),
    "endless": (endless, IntegrityError, "more bytes"),
    "HTML with 200": (body(b"\n<html>log in</html>"), IntegrityError, "web page"),
    "empty": (body(b""), IntegrityError, "header"),
    "short": (body(CONTENT[:-1]), IntegrityError, "fewer bytes"),
    "right size, wrong bytes": (body(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])), IntegrityError, "sha256"),
    "the same, zipped": (body(gzip.compress(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), 1)), IntegrityError, "sha256"),
    "a part": (lambda handler: handler.begin(206, Content_Range="bytes 5-9/99", Content_Length=5), Unavailable, "HTTP 206"),
    "slow headers": (slow_headers, Unavailable, "gave up after"),
    "endless chunks": (endless_chunks, Unavailable, "gave up after"),
    "header of 10 MB": (says(f"X: {'x' * 10_000_000}"), Unavailable, "connection error"),
    "many headers": (says("\r\n".join(f"X-{i}: y" for i in range(9999))), Unavailable, "connection error"),
    "two lengths": (says("Content-Length: 5\r\nContent-Length: 9", ZIPPED), Unavailable, "invalid header"),
    "length of 26 digits": (says(f"Content-Length: {'9' * 26}", ZIPPED), Unavailable, "protocol error"),
    "length of 5000 digits": (says(f"Content-Length: {'9' * 5000}", ZIPPED), Unavailable, "not HTTP"),
    "negative chunk": (says("Transfer-Encoding: chunked", b"-5\r\nabc\r\n"), Unavailable, "not HTTP"),
    "endless redirect of cookies": (
        says(f"Location: /images.gz\r\nSet-Cookie: a={'b' * 60_000}\r\nContent-Length: 0", code="302 Found"),
        Unavailable,
        "too many redirects",
    ),
    "redirect nowhere": (lambda handler: handler.begin(302, Content_Length=0), Unavailable, "HTTP 302"),
    "redirect to bytes": (says("Location: http://\0\xff\xfe/\r\nContent-Length: 0", code="302 Found"), Unavailable, "not HTTP"),
    "redirect with a secret": (redirect(f"http://u:{SECRET}@127.0.0.1:1/{SECRET}?t={SECRET}"), Unavailable, "connection error"),
    "redirect to https that is none": (https_of_its_own, Unavailable, "ssl error"),
    "escapes in the answer": (says("Content-Length: 0", code="404 \x1b[31mno"), Unavailable, "HTTP 404"),
    "zipped twice": (body(gzip.compress(ZIPPED)), IntegrityError, "not the expected header"),
    "more after the gzip": (body(ZIPPED + b"more"), IntegrityError, "truncated or damaged gzip"),
    "other sizes in the header": (body(struct.pack(">4I", 0x803, 28, *SHAPE[:2]) + PIXELS), IntegrityError, "header"),
}
LOCAL_FAULTS = {
    "no such folder": ("absent", "no such folder"),
    "no such user": ("~no-such-user/mnist", "no such folder"),
    "file as mirror": ("file:///etc/passwd", "a file; name the folder"),
    "file: with a host": ("file://host/folder", "refused"),
    "file: with NUL": ("file:///a%00b", "no such folder"),
    "too long a name": ("x" * 300, "name too long"),
    "folder without the file": (str(Path(__file__).parent), "no such file in the folder"),
    "other scheme": ("ftp://127.0.0.1/", "refused: a mirror is"),
    "bad port": ("http://127.0.0.1:port/", "invalid url"),
    "bad host": ("http://[::/", "not a valid URL"),
    "NUL": ("a\0b", "no such folder"),
    "two lines": ("a\nb", "a b: no such folder"),
    "escapes": ("http://127.0.0.1:1/\x1b[31m", r"/\\x1b\[31m: new connection error"),
    "no host": ("http:///mnist", "invalid url"),
    "host of a zone that is absent": ("http://[fe80::1%25absent]:1/", "name resolution error"),
    "refused connection": ("http://127.0.0.1:1/", "connection error"),
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    PAUSES.clear()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images.gz").write_bytes(ZIPPED)
    return tmp_path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_mirror_is_named_in_time_and_the_next_one_serves(
    fault: str, server: Server, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answer, kind, reason = FAULTS[fault]
    server.answers["/images.gz"] = answer
    secretive = server.url.replace("//", f"//user:{SECRET}@") + f"?token={SECRET}"
    started = time.monotonic()
    patience = QUICK if "gave up" in reason else replace(QUICK, read=2, total=2)  # a busy machine may take its time
    with pytest.raises(kind, match=reason) as raised:
        fetch(FILE, [secretive], patience)
    assert time.monotonic() - started < 2
    assert fetch(FILE, [secretive, str(folder)], patience) == (CONTENT, str(folder))
    captured = capfd.readouterr()
    assert f"127.0.0.1:{server.server_port}" in str(raised.value)
    assert SECRET not in captured.out + captured.err + str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", LOCAL_FAULTS)
def test_a_mirror_that_cannot_be_one_is_refused_and_the_next_one_serves(fault: str, folder: Path) -> None:
    mirror, reason = LOCAL_FAULTS[fault]
    with pytest.raises(Unavailable, match=reason):
        fetch(FILE, [mirror], replace(QUICK, total=10))
    assert fetch(FILE, [mirror, str(folder)], QUICK)[0] == CONTENT


def test_a_mirror_that_recovers_is_retried_with_growing_pauses(server: Server) -> None:
    server.answers["/images.gz"] = turns(status(503), status(503), body(ZIPPED))
    assert fetch(FILE, [server.url], QUICK)[0] == CONTENT
    assert PAUSES == [1, 2]


def test_retries_are_bounded_and_a_missing_file_is_not_asked_for_again(server: Server) -> None:
    server.answers["/images.gz"] = status(503)
    with pytest.raises(Unavailable):
        fetch(FILE, [server.url], QUICK)
    assert server.asked == ["/images.gz"] * 3
    del server.answers["/images.gz"]
    with pytest.raises(Unavailable):
        fetch(FILE, [server.url], QUICK)
    assert server.asked[3:] == ["/images.gz", "/images"]


def test_all_places_of_a_file_share_the_time_of_a_mirror(server: Server) -> None:
    def late(handler: Handler) -> None:
        server.over.wait(0.15)
        status(404)(handler)

    server.answers = dict.fromkeys((f"/{place}/images{end}" for place in range(9) for end in (".gz", "")), late)
    started = time.monotonic()
    with pytest.raises(Unavailable, match="gave up after"):
        fetch(replace(FILE, places=tuple(f"{place}/images" for place in range(9))), [server.url], QUICK)
    assert time.monotonic() - started < 2


def test_what_cannot_pass_is_not_retried(server: Server) -> None:
    server.answers["/images.gz"] = redirect("/images.gz")
    with pytest.raises(Unavailable):
        fetch(FILE, [server.url], QUICK)
    assert (len(server.asked), PAUSES) == (1 + MAX_REDIRECTS, [])


def test_every_form_of_mirror_and_of_file_gives_the_same_bytes(server: Server, folder: Path) -> None:
    server.answers |= {"/zip/images.gz": body(ZIPPED, Content_Encoding="gzip"), "/raw/images": body(CONTENT)}
    server.answers |= {"/old/images.gz": redirect("/zip/images.gz")}
    (folder / "raw").mkdir()
    (folder / "raw" / "images").write_bytes(CONTENT)
    paths = [str(folder), f"{folder}/", str(folder / "raw"), folder.as_uri(), f"file://localhost{folder}", f"file:{folder}"]
    for mirror in [*paths, *(f"{server.url}{path}" for path in ("zip", "zip/", "raw", "old"))]:
        assert fetch(FILE, [mirror], QUICK) == (CONTENT, mirror)


def test_wrong_bytes_outweigh_any_number_of_dead_mirrors(server: Server) -> None:
    server.answers["/images.gz"] = body(b"\0\0\0\0")
    for mirrors in itertools.permutations(["/absent", server.url, "http://127.0.0.1:1/"]):
        with pytest.raises(IntegrityError) as raised:
            fetch(FILE, mirrors, QUICK)
        assert all(redact(mirror) in str(raised.value) for mirror in mirrors)
    with pytest.raises(Unavailable, match="no mirror"):
        fetch(FILE, [], QUICK)


def test_a_gzip_bomb_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            FILE.check(BOMB)
        assert tracemalloc.get_traced_memory()[1] < 4 * FILE.size
    finally:
        tracemalloc.stop()


def test_the_body_of_a_redirect_is_not_read(server: Server) -> None:
    server.answers |= {"/images.gz": endless_redirect_body, "/moved": body(ZIPPED)}
    assert fetch(FILE, [server.url], QUICK)[0] == CONTENT
    assert server.sent < 20_000_000


def test_a_server_of_wrong_bytes_is_not_asked_for_other_places(server: Server) -> None:
    places = ("a/images", "b/images")
    server.answers = {f"/{place}{end}": body(b"<html>") for place in ("images", *places) for end in (".gz", "")}
    with pytest.raises(IntegrityError, match="web page"):
        fetch(replace(FILE, places=places), [server.url], QUICK)
    assert server.asked == ["/images.gz"]


def test_a_file_that_never_answers_is_given_up_like_a_server(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.mkfifo(gone / "images.gz")
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # as on a file server that is gone, where a read waits
    with pytest.raises(Unavailable, match="gave up after"):
        fetch(FILE, [str(gone)], QUICK)
    assert fetch(FILE, [str(gone), str(folder)], QUICK)[0] == CONTENT
    os.close(os.open(gone / "images.gz", os.O_WRONLY))  # ends the reads


def test_a_huge_file_with_a_hole_is_read_no_further_than_the_data(tmp_path: Path) -> None:
    with open(tmp_path / "images", "wb") as file:
        file.write(CONTENT)
        file.truncate(1 << 40)
    with pytest.raises(IntegrityError, match="more bytes"):
        fetch(FILE, [str(tmp_path)], QUICK)


def test_neither_a_device_nor_a_pipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "images.gz").symlink_to("/dev/zero")
    with pytest.raises(Unavailable, match="no such file"):
        fetch(FILE, [str(tmp_path)], QUICK)


@pytest.mark.parametrize(
    "name", ["a b", "100%", "50%20", "größe", "ば", "it's", "a@b", "a#b", "a?b", "a:b", "file:a", "MNIST,v1", "a\\b"]
)
def test_a_folder_of_any_name_is_a_mirror(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "images").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    forms = [str(folder), f"{folder}/", folder.as_uri(), f"{folder.as_uri()}/", f"./{name}", f"~/{name}"]
    forms += [folder.as_uri().replace("file:", "FILE:"), *([] if name == "file:a" else [name])]
    forms += [f"file://{folder}", f"file://localhost{folder}"] if "%2" not in name else []
    for form in forms:
        assert fetch(FILE, [form], QUICK) == (CONTENT, form)


def test_bytes_that_are_not_utf_8_may_name_a_folder(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    (folder / "images").write_bytes(CONTENT)
    for mirror in (str(folder), f"file://{tmp_path}/%ff"):
        assert fetch(FILE, [mirror], QUICK)[0] == CONTENT


def test_a_relative_folder_is_that_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repo" / "mnist").mkdir(parents=True)
    (tmp_path / "copy").mkdir()
    (tmp_path / "repo" / "mnist" / "images.gz").write_bytes(ZIPPED)
    monkeypatch.chdir(tmp_path / "copy")  # where `dvc exp run --temp` runs a stage
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repo"))
    for mirror in ("mnist", "mnist/", "./mnist", "../repo/mnist", "file:mnist"):
        assert fetch(FILE, [mirror], QUICK) == (CONTENT, mirror)
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setattr("pipeline.datasets.transfer.REPOSITORY", tmp_path / "repo")  # a notebook runs in its own folder
    assert fetch(FILE, ["mnist"], QUICK)[0] == CONTENT


def test_a_damaged_file_does_not_hide_a_second_one_that_is_whole(tmp_path: Path) -> None:
    (tmp_path / "images.gz").write_bytes(ZIPPED[:-9])
    with pytest.raises(IntegrityError, match=r"images\.gz: truncated or damaged gzip"):
        fetch(FILE, [str(tmp_path)], QUICK)
    (tmp_path / "images").write_bytes(CONTENT)
    assert fetch(FILE, [str(tmp_path)], QUICK)[0] == CONTENT


def test_with_only_the_md5_of_the_gzip_nothing_but_that_gzip_is_accepted(tmp_path: Path, server: Server) -> None:
    file = idx_file("images", SHAPE, gz_md5=hashlib.md5(ZIPPED).hexdigest())
    assert file.check(ZIPPED) == CONTENT
    server.answers["/images.gz"] = body(ZIPPED, Content_Encoding="gzip")  # must reach the check as served, not unpacked
    assert fetch(file, [server.url], QUICK)[0] == CONTENT
    for served, reason in ((CONTENT, "uncompressed"), (gzip.compress(CONTENT, 2), "md5")):
        with pytest.raises(IntegrityError, match=reason):
            file.check(served)
    (tmp_path / "images").write_bytes(CONTENT)
    with pytest.raises(IntegrityError, match=r"only the \.gz has a published checksum"):
        fetch(file, [str(tmp_path)], QUICK)
    with pytest.raises(ValueError, match="sha256"):
        File("images", b"", 1)


def test_a_dead_mirror_is_waited_for_once_and_a_missing_first_file_ends_it(tmp_path: Path, server: Server) -> None:
    contents = [CONTENT, struct.pack(">2I", 0x801, 300) + bytes(300)] * 2
    files = [
        idx_file(f"f{i}", (SHAPE, (300,))[i % 2], sha256=hashlib.sha256(content).hexdigest())
        for i, content in enumerate(contents)
    ]
    tiny = IdxDataset("tiny", (), (files[0], files[1], files[2], files[3]), patience=QUICK)
    server.answers["/f0.gz"] = status(503)
    with pytest.raises(Unavailable):
        tiny([server.url, str(tmp_path)])
    assert server.asked == ["/f0.gz"] * 3
    for file, content in zip(files, contents, strict=True):
        (tmp_path / file.name).write_bytes(content)
    dataset = tiny([server.url, str(tmp_path)])
    assert server.asked == ["/f0.gz"] * 6
    assert dataset.train.pixels.tobytes() == PIXELS
    assert dataset.test.shape == (1, 28, 28)
