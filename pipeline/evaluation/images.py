"""One row for each test image: how well it is explained, and what the judge makes of its reconstruction."""

import io

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from pipeline.evaluation.subject import Findings, Subject

SHOWN = 10


def images(subject: Subject) -> Findings:
    """Look at each test image's reconstruction, decoded at its code; only columns and pictures, no numbers.

    ``judged_class`` and ``judge_confidence`` (with a judge); the pictures are the ``worst`` reconstructions (largest mean
    squared error) and the ``surprising`` ones, which the judge most surely takes for another class.
    """
    height, width = subject.test.image_shape
    decoded = subject.decode(subject.codes)
    pixels = subject.test.pixels

    def pictured(indices: np.ndarray) -> np.ndarray:
        return np.stack([pixels[indices], decoded[indices]]).reshape(2, -1, height, width)

    error = np.square(decoded - pixels).mean(1)
    arrays = {"worst": pictured(np.argsort(-error, kind="stable")[:SHOWN])}
    columns: dict[str, np.ndarray] = {}
    if subject.judge:
        probabilities = subject.judge.look(decoded)[1]
        judged, confidence = probabilities.argmax(-1), probabilities.max(-1)
        columns = {"judged_class": judged, "judge_confidence": confidence}
        wrong = np.where(judged == subject.test.labels, -1.0, confidence)
        surprising = [index for index in np.argsort(-wrong, kind="stable")[:SHOWN] if wrong[index] >= 0]
        arrays["surprising"] = pictured(np.array(surprising, dtype=np.int64))
    return Findings({}, columns, arrays)


def table(labels: np.ndarray, columns: dict[str, np.ndarray]) -> bytes:
    """Return columns ``[N]`` beside the images' labels as a parquet file; equal columns give equal bytes."""
    stream = io.BytesIO()
    parquet.write_table(pa.table({"label": labels, **columns}), stream)
    return stream.getvalue()
