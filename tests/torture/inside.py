"""Trials in one process through the loaders, for speed; each prints what it found as a line of JSON. Cases fork it."""

import io
import json
import math
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import describe
from tests.torture.lab import CANARY

SECONDS = 30  # after which a trial counts as hanging
CPU_SECONDS = 1.0  # that refusing a file may take


class Hanging(BaseException):
    """A trial took too long."""


def _hang(*_: object) -> None:
    raise Hanging


def say(**values: Any) -> None:
    """Print a line for the case that started this process."""
    sys.__stdout__.write(json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def trial(where: str, action: Callable[[], Any], codes: Iterable[int], accept: Callable[[Any], bool]) -> None:
    """Do an action that must raise an error with one of the exit codes, in one line, or give a value that is accepted."""
    column = what = ""
    said, started = io.StringIO(), time.process_time()
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        with redirect_stderr(said), redirect_stdout(said):
            value = action()
        signal.alarm(0)
        if not accept(value):
            column, what = "lost", f"taken in silence: {str(value)[:80]}"
    except Hanging:
        what = f"no answer in {SECONDS} s"
    except Exception as error:
        signal.alarm(0)
        known = describe(error)
        if known is None:
            column, what = "tracebacks", f"{type(error).__name__}: {error}"
        else:
            said.write(known[0])
            if known[1] not in set(codes):
                what = f"exit {known[1]}: {known[0]}"
    finally:
        signal.alarm(0)
    used = time.process_time() - started
    if not what and used > CPU_SECONDS:
        what = f"took {used:.1f} CPU seconds"
    if CANARY in said.getvalue():
        column, what = "leaked", f"the secret is printed: {said.getvalue()[-200:]}"
    say(where=where, column=column, what=what[:300])


def damage(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return what was done to a file's bytes, and the damaged bytes: a bit flipped, a cut, or a block of zeros."""
    position = chance.randrange(len(content))
    kind = chance.choice(["flip", "flip", "cut", "zeros"])
    if kind == "cut":
        return f"cut at {position}", content[:position]
    damaged = bytearray(content)
    if kind == "flip":
        damaged[position] ^= 1 << chance.randrange(8)
    else:
        damaged[position : position + 512] = bytes(len(damaged[position : position + 512]))
        if damaged == content:
            damaged[position] ^= 1
    return f"{kind} at {position}", bytes(damaged)


def digest(value: Any) -> Any:
    """Return a value that can be compared, of what a loader returns."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {key: digest(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [digest(item) for item in value]
    if hasattr(value, "state_dict"):
        return digest({name: tensor.numpy() for name, tensor in value.state_dict().items()})
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return digest({name: item for name, item in vars(value).items() if name != "md5"})
    return value


def loaders() -> dict[str, tuple[str, Callable[[Path], Any], int, bool]]:
    """Return file, loader, exit code, and whether a changed value would be noticed, by kind of file."""
    from pipeline.classifier import load_classifier
    from pipeline.data import load_dataset
    from pipeline.evaluation.results import load_results
    from pipeline.figures.history import load_history
    from pipeline.models.weights import load_weights
    from pipeline.params import load_params, load_yaml
    from pipeline.reporting.gate import Gate
    from pipeline.storage import load_arrays, load_json

    return {
        "weights": ("models/vae.safetensors", load_weights, 3, True),
        "data": ("data/dataset.safetensors", load_dataset, 3, True),
        "classifier": ("models/classifier.safetensors", load_classifier, 3, True),
        "results": ("results/vae.safetensors", load_results, 3, True),
        "checkpoint": ("models/ae.safetensors", load_arrays, 3, True),  # a checkpoint is such a file, read by this function
        # The numbers in these have no checksum of their own; the commands compare them with dvc.lock, or a person edits them.
        "history": ("metrics/vae_history.csv", load_history, 3, False),
        "metrics": ("metrics/vae.json", load_json, 3, False),
        "params": ("params.yaml", load_params, 2, False),
        "gate": ("gate.yaml", lambda path: load_yaml(path, Gate), 2, False),
    }


def damaged_files(repo: str, seed: str, number: int) -> None:
    """Damage each kind of file at ``number`` places."""
    chance, scratch = random.Random(seed), Path(tempfile.mkdtemp())  # noqa: S311
    for kind, (path, load, code, noticed) in loaders().items():
        content, file = Path(repo, path).read_bytes(), scratch / Path(path).name
        whole = digest(load(Path(repo, path)))
        for _ in range(number):
            done, damaged = damage(content, chance)
            file.write_bytes(damaged)
            same = (lambda value, whole=whole: digest(value) == whole) if noticed else (lambda value: True)
            trial(f"{kind}, {done}", lambda load=load, file=file: load(file), [code], same)


def hostile_params(repo: str, seed: str, number: int) -> None:
    """Read params.yaml files that are wrong on purpose."""
    from pipeline.params import load_params
    from tests.test_params import BAD

    shipped = Path(repo, "params.yaml").read_text()
    deep = {f"{count:,} times {mark}": "x: " + mark * count for mark in ("[", "{", "- ", "? ") for count in (5_000, 20_000)}
    more = deep | {
        "merge key without an anchor": shipped + "\n<<: {beta: 9}\n",
        "%YAML": "%YAML 1.1\n---\n" + shipped,
        "%TAG": "%TAG ! tag:example.org,2000:\n---\n" + shipped,
        "a number of 5,000 digits": shipped.replace("seed: 1 ", f"seed: {'9' * 5000} "),
        "a float without end": shipped.replace("beta: 1.0", "beta: 1e999"),
        "seconds": shipped.replace("beta: 1.0", "beta: 1:30"),
        "a date": shipped.replace("beta: 1.0", "beta: 2026-01-01"),
        "a list as a key": shipped + "\n? [a]\n: 1\n",
        "a mapping as a key": shipped + "\n? {a: 1}\n: 1\n",
        "NUL": shipped + "\n# \0\n",
        "a bell": shipped.replace("beta: 1.0", "beta: \a"),
        "surrogates": b"beta: \xed\xa0\x80\n",
        "UTF-16": shipped.encode("utf-16"),
        "a secret in the mirror": shipped.replace("mirror: null", f"mirror: https://user:{CANARY}@host/"),
        "a secret in a wrong value": shipped.replace("beta: 1.0", f"beta: https://user:{CANARY}@host/"),
        "64 KB of spaces": " " * 65_000,
        "64 KB of one key": "a" * 65_000 + ": 1",
        "keys that are equal but for type": shipped + "\n1: 1\n'1': 1\n",
        "an escape that is none": shipped.replace("beta: 1.0", 'beta: "\\q"'),
    }
    chance, file = random.Random(seed), Path(tempfile.mkdtemp(), "params.yaml")  # noqa: S311
    names = [("known", name) for name in BAD] + [("more", name) for name in more]
    for group, name in chance.sample(names, min(number, len(names))):
        content = BAD[name][0] if group == "known" else more[name]
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        trial(name, lambda: load_params(file), [2], lambda value: False)


def hostile_files(repo: str, seed: str, number: int) -> None:
    """Read files with a right checksum and a hostile content."""
    from pipeline.classifier import load_classifier
    from pipeline.data import load_dataset
    from pipeline.evaluation.results import load_results
    from pipeline.models.weights import load_weights
    from pipeline.storage import load_arrays, load_json, save_arrays

    scratch = Path(tempfile.mkdtemp())
    kinds: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "weights": ("models/vae.safetensors", load_weights),
        "data": ("data/dataset.safetensors", load_dataset),
        "classifier": ("models/classifier.safetensors", load_classifier),
        "results": ("results/vae.safetensors", load_results),
    }
    headers: dict[str, list[tuple[str, Any]]] = {
        "weights": [
            *(("config.latent_dim", value) for value in ("x", -1, 0, 10**9, 1.5, None, True, [2], math.nan)),
            *(
                ("config.hidden_dims", value)
                for value in ("abc", [10**9], [[1]], [1] * 100_000, [-1], [0], None, {"a": 1}, [2.5])
            ),
            *(
                ("config.image_shape", value)
                for value in ([1, 28], [10**6] * 3, "abc", [-1, -28, -28], [1, 28, None], [1, 29, 28])
            ),
            *(("config.model", value) for value in (None, [], "gan", "__class__", {"a": 1})),
            *(("config.net", value) for value in (None, [], "conv", 5)),
            *(("beta", value) for value in ("x", math.nan, math.inf, -1, [1], None, True)),
            *(("dataset", value) for value in (None, 5, [], {"a": 1})),
            ("config", []),
            ("config", None),
            ("config.more", 1),
        ],
        "data": [*(("dataset", value) for value in (None, 5, [], {"a": 1}, "../../etc", "a\nb", "x" * 10**6))],
        "classifier": [
            *(("num_classes", value) for value in ("x", -1, 0, 10**9, 1.5, None, 11)),
            *(("accuracy", value) for value in ("x", math.nan, None, [1], 7.5, -1)),
            *(("image_shape", value) for value in ([1, 28], [10**6] * 3, "abc", None)),
            *(("dataset", value) for value in (None, 5, [])),
        ],
        "results": [
            *(("beta", value) for value in ("x", math.nan, [1], math.inf)),
            *(("samplers", value) for value in ("x", None, 5, [5], [None])),
            *(("weights_md5", value) for value in (5, None, [], "../x")),
            *(("dataset", value) for value in (None, 5, [])),
            *(("model", value) for value in (None, 5, [])),
            *(("seed", value) for value in ("x", None, [], 1.5)),
            ("more", 1),
        ],
    }
    arrays: dict[str, list[tuple[str, Callable[[np.ndarray], np.ndarray | None]]]] = {
        kind: [
            ("NaN", lambda a: np.full_like(a, np.nan) if a.dtype.kind == "f" else None),
            ("infinity", lambda a: np.full_like(a, np.inf) if a.dtype.kind == "f" else None),
            ("one dimension less", lambda a: a.reshape(-1) if a.ndim > 1 else None),
            ("int8", lambda a, kind=kind: a.astype(np.int8) if a.dtype.kind == "f" and kind != "results" else None),
            ("no rows", lambda a, kind=kind: a[:0] if kind != "results" else None),
            ("a row less", lambda a, kind=kind: a[1:] if len(a) > 1 and kind != "results" else None),
            ("below 0", lambda a: a * 0 - 5 if a.dtype == np.int64 else None),
            ("far above", lambda a: a * 0 + 10**12 if a.dtype == np.int64 else None),
        ]
        for kind in kinds
    }
    files: list[tuple[str, str, Callable[[], None]]] = []
    for kind, (path, _) in kinds.items():
        values, header = load_arrays(Path(repo, path))
        for key, value in headers[kind]:
            section, _, name = key.rpartition(".")
            changed = json.loads(json.dumps(header))
            (changed[section] if section else changed)[name] = value
            files.append((kind, f"{key} = {str(value)[:40]}", lambda c=changed, v=values: save_arrays(file, v, c)))
        for what, change in arrays[kind]:
            changes = {name: change(values[name]) for name in [name for name in values if values[name].ndim][:40:3]}
            files += [
                (kind, f"{name}: {what}", lambda v=values | {name: other}, h=header: save_arrays(file, v, h))
                for name, other in changes.items()
                if other is not None
            ]
        first = next(iter(values))
        rest = {name: array for name, array in values.items() if name != first}
        if kind != "results":  # which lack the arrays of what was not measured
            files.append((kind, f"without {first}", lambda v=rest, h=header: save_arrays(file, v, h)))
        files.append((kind, "a list as the header", lambda v=values: save_arrays(file, v, [1])))  # type: ignore[arg-type]
        for length in (0, 8, 2**62):
            words = length.to_bytes(8, "little") + b"{}"
            files.append((kind, f"a header of {length} bytes", lambda w=words: file.write_bytes(w) and None))
        nested = '{"__metadata__":{"pipeline":' + json.dumps("[" * 50_000) + "}}"
        raw = len(nested).to_bytes(8, "little") + nested.encode()
        files.append((kind, "deep metadata", lambda r=raw: file.write_bytes(r) and None))
        files.append((kind, "a folder", lambda: file.mkdir()))
        files.append((kind, "a pipe", lambda: os.mkfifo(file)))
        files.append((kind, "a link to itself", lambda: file.symlink_to(file)))
        files.append((kind, "a device", lambda: file.symlink_to("/dev/zero")))
    texts = {
        "deep": "[" * 100_000,
        "deep mapping": '{"a":' * 50_000,
        "NaN": '{"test/elbo": NaN}',
        "infinity": '{"test/elbo": 1e999}',
        "a number of 5,000 digits": '{"a": ' + "9" * 5000 + "}",
        "a list": "[1]",
        "NUL": b"\0",
    }
    kinds["metrics"] = ("metrics/vae.json", load_json)
    for name, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        files.append(("metrics", name, lambda c=content: file.write_bytes(c) and None))
    chance = random.Random(seed)  # noqa: S311
    for index, (kind, name, make) in enumerate(chance.sample(files, min(number, len(files)))):
        file = scratch / f"{index}" / Path(kinds[kind][0]).name
        file.parent.mkdir()
        make()
        trial(f"{kind}: {name}", lambda kind=kind, file=file: kinds[kind][1](file), [3], lambda value: False)


def hostile_mirrors(repo: str, seed: str, number: int) -> None:
    """Fetch from mirrors that misbehave, with a good one behind them."""
    from pipeline.datasets.transfer import fetch
    from tests.datasets.test_transfer import CONTENT, FAULTS, FILE, LOCAL_FAULTS, QUICK, ZIPPED, Server, body, status, turns

    server, folder = Server(), Path(tempfile.mkdtemp())
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    (folder / "images.gz").write_bytes(ZIPPED)
    pipe, loop = folder / "pipe", folder / "loop"
    for mirror in (pipe, loop):
        mirror.mkdir()
    os.mkfifo(pipe / "images.gz")
    (loop / "images.gz").symlink_to(loop / "images.gz")
    answers = {name: answer for name, (answer, _, _) in FAULTS.items()} | {
        "503, then right": turns(status(503), status(503), body(ZIPPED)),
        "huge headers": lambda handler: handler.begin(**{f"X_{n}": "x" * 60_000 for n in range(99)}),
        "100,000 headers": lambda handler: handler.begin(**{f"X_{n}": "x" for n in range(100_000)}),
        "a length below 0": lambda handler: handler.begin(Content_Length=-5),
        "a length that is a lie": lambda handler: handler.begin(Content_Length=10**15),
        "401": lambda handler: handler.begin(401, WWW_Authenticate='Basic realm="x"', Content_Length=0),
    }
    local = {name: mirror for name, (mirror, _) in LOCAL_FAULTS.items()} | {"a pipe": str(pipe), "a loop of links": str(loop)}
    chance = random.Random(seed)  # noqa: S311
    names = [*((name, True) for name in answers), *((name, False) for name in local)]
    for name, served in chance.sample(names, min(number, len(names))):
        if served:
            server.answers["/images.gz"] = answers[name]
            mirror = server.url.replace("//", f"//user:{CANARY}@") + f"?token={CANARY}"
        else:
            mirror = local[name]
        trial(name, lambda mirror=mirror: fetch(FILE, [mirror, str(folder)], QUICK)[0], [], lambda value: value == CONTENT)
        alone = turns(status(503), status(503), status(503)) if name == "503, then right" else answers.get(name)
        if served and alone:
            server.answers["/images.gz"] = alone
        trial(f"{name}, alone", lambda mirror=mirror: fetch(FILE, [mirror], QUICK), [3], lambda value: False)
    server.over.set()


def main(arguments: Sequence[str]) -> None:
    """Run a function of this module: NAME REPOSITORY SEED NUMBER."""
    name, repo, seed, number = arguments
    globals()[name](repo, seed, int(number))


if __name__ == "__main__":
    main(sys.argv[1:])
