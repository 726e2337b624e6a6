"""How evenly a decoder moves along straight lines between codes; free of scale, so that all models compare."""

import numpy as np

from pipeline.evaluation.subject import Findings, Subject
from pipeline.judge import Judge

STEPS = 32
FLAT = 1e-6  # a path shorter than this in pixels goes nowhere


def pairs(labels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return indices ``[2 size, 2]`` of pairs of images, first of one class, then of two, and whether of one class ``[2 size]``.

    Fewer where the data set has no such pairs.
    """
    order = rng.permutation(len(labels))
    # Neighbours in the order of the labels are of one class, except where it changes.
    by_class = order[np.argsort(labels[order], kind="stable")]
    candidates = [
        rng.permutation(np.stack([by_class[:-1], by_class[1:]], axis=1)),
        np.stack([order, np.roll(order, 1)], axis=1),
    ]
    alike = [labels[pair[:, 0]] == labels[pair[:, 1]] for pair in candidates]
    chosen = [candidates[0][alike[0]][:size], candidates[1][~alike[1]][:size]]
    return np.concatenate(chosen), np.repeat([True, False], [len(part) for part in chosen])


def tortuosity(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return path length over chord (at least 1) and the longest step's share of the path, for paths of images.

    .. math:: \frac{\sum_i \|x_{i+1} - x_i\|}{\|x_S - x_0\|}, \quad \frac{\max_i \|x_{i+1} - x_i\|}{\sum_i \|x_{i+1} - x_i\|}

    A path that goes nowhere counts as straight and even.

    Args:
        path: images ``[P, S + 1, D]``.

    Returns:
        Two arrays ``[P]``; the second is 1/S for even steps and 1 for one jump.

    >>> line = np.linspace([0.0, 0.0], [3.0, 4.0], 5)[None]
    >>> [ratio.round(6).tolist() for ratio in tortuosity(line)]
    [[1.0], [0.25]]
    """
    lengths = np.linalg.norm(np.diff(path.astype(np.float64), axis=1), axis=-1)
    total, chord = lengths.sum(1), np.linalg.norm(path[:, -1].astype(np.float64) - path[:, 0], axis=-1)
    moves = total > FLAT
    ratio = np.where(moves, total / np.maximum(chord, FLAT), 1.0)
    jump = np.where(moves, lengths.max(1) / np.maximum(total, FLAT), 1 / lengths.shape[1])
    return np.maximum(ratio, 1.0), jump


def walks(subject: Subject, judge: Judge | None) -> dict[str, np.ndarray]:
    """Return, for each pair of test images ``[P]``: ``same_class``, ``tortuosity``, ``jump_share`` and, with a judge,
    ``class_switches`` (how often its choice changes on the way) and ``entropy`` (mean over the way, nats)."""
    indices, same = pairs(subject.test.labels, subject.budget.pairs, np.random.default_rng(0))
    share = np.linspace(0, 1, STEPS + 1, dtype=np.float32)[None, :, None]
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(indices), 100):
        ends = subject.codes[indices[start : start + 100]]
        path = subject.decode((1 - share) * ends[:, :1] + share * ends[:, 1:])
        ratio, jump = tortuosity(path)
        values = {"tortuosity": ratio, "jump_share": jump}
        if judge:
            probabilities = judge.look(path)[1].astype(np.float64)
            values["class_switches"] = (np.diff(probabilities.argmax(-1), axis=1) != 0).sum(1).astype(np.float64)
            values["entropy"] = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(-1).mean(1)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {"same_class": same} | {name: np.concatenate(parts) for name, parts in columns.items()}


def smoothness(subject: Subject) -> Findings:
    """Measure walks of 32 equal steps between the codes of pairs of test images, of one class and of two.

    :func:`walks`, means over pairs: ``tortuosity``, ``jump_share`` and, with a judge, ``class_switches`` and ``entropy``. The
    pairs are the same for every model and seed, so models compare pair by pair.
    """
    rows = walks(subject, subject.judge)
    same = rows["same_class"]
    numbers = {
        name: {key: float(values[chosen].mean()) for key, values in rows.items() if key != "same_class"}
        for name, chosen in (("same_class", same), ("cross_class", ~same))
        if chosen.any()
    }
    return Findings(numbers, arrays={f"walk_{name}": values for name, values in rows.items()})
