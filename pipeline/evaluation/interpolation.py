"""How evenly a decoder moves along straight lines between codes; independent of the codes' scale, so all models compare."""

from typing import Any

import numpy as np

from pipeline.evaluation.context import NO_LABELS, EvalContext, MetricResult

STEPS = 32
FLAT = 1e-6  # a shorter path in pixels counts as constant


def pairs(labels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of at most ``size`` pairs of images of one class, then as many of two, and whether each is of one class."""
    order = rng.permutation(len(labels))
    # Sorted by label, neighbours are of one class, except where the class changes.
    by_class = order[np.argsort(labels[order], kind="stable")]
    neighbours = rng.permutation(np.stack([by_class[:-1], by_class[1:]], axis=1))
    any_two = np.stack([order, np.roll(order, 1)], axis=1)
    same, cross = neighbours[np.equal(*labels[neighbours].T)][:size], any_two[np.not_equal(*labels[any_two].T)][:size]
    return np.concatenate([same, cross]), np.repeat([True, False], [len(same), len(cross)])


def tortuosity(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return path length over chord ``[P]`` and the longest step's share of the path ``[P]``, of paths ``[P, S + 1, D]``.

    .. math:: \frac{\sum_i \|x_{i+1} - x_i\|}{\|x_S - x_0\|}, \quad \frac{\max_i \|x_{i+1} - x_i\|}{\sum_i \|x_{i+1} - x_i\|}

    The first is at least 1; the second is 1/S for even steps and 1 for one jump. A constant path counts as straight and even.

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


def along(context: EvalContext, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return measurements ``[P]`` along the line between each pair ``[P, 2]`` of test images.

    ``tortuosity``, ``jump_share`` and, with a classifier, ``class_switches`` (how often the predicted class changes) and
    ``entropy`` (mean entropy of the class probabilities, nats).
    """
    share = np.linspace(0, 1, STEPS + 1, dtype=np.float32)[None, :, None]
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(indices), 100):
        ends = context.codes[indices[start : start + 100]]
        path = context.decode((1 - share) * ends[:, :1] + share * ends[:, 1:])
        values = dict(zip(("tortuosity", "jump_share"), tortuosity(path.reshape(*path.shape[:2], -1)), strict=True))
        if context.classifier:
            probabilities = context.classifier.predict(path)[1].astype(np.float64)
            values["class_switches"] = (np.diff(probabilities.argmax(-1), axis=1) != 0).sum(1).astype(np.float64)
            values["entropy"] = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(-1).mean(1)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def interpolation(context: EvalContext) -> MetricResult:
    """Measure interpolations of 32 equal steps between the codes of pairs of test images, of one class and of two.

    Means over the pairs of :func:`along`: ``same_class`` and ``cross_class``, or ``all_pairs`` if the images have no labels.
    The pairs are the same for every model and seed, so models compare pair by pair.
    """
    rng, labels, size = np.random.default_rng(0), context.test.labels, context.budget.pairs
    if labels is None:
        order = rng.permutation(len(context.test))
        rows = along(context, np.stack([order, np.roll(order, 1)], axis=1)[:size])
        numbers = {"all_pairs": {key: float(values.mean()) for key, values in rows.items()}, "note": NO_LABELS}
        return MetricResult(numbers, arrays={f"pair_{name}": values for name, values in rows.items()})
    indices, same = pairs(labels, size, rng)
    rows = along(context, indices)
    chosen = {name: part for name, part in (("same_class", same), ("cross_class", ~same)) if part.any()}
    sections: dict[str, Any] = {
        name: {key: float(values[part].mean()) for key, values in rows.items()} for name, part in chosen.items()
    }
    if missing := [name for name in ("same_class", "cross_class") if name not in chosen]:
        sections["note"] = f"no {missing[0]}: the labels give no such pairs"
    return MetricResult(sections, arrays={"pair_same_class": same} | {f"pair_{name}": values for name, values in rows.items()})
