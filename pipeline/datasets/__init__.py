"""The data sets by name: each a function of the mirrors to try first that returns a :class:`pipeline.data.Dataset`."""

from collections.abc import Callable, Sequence

from pipeline.data import Dataset
from pipeline.datasets.digits import digits
from pipeline.datasets.fashion_mnist import fashion_mnist
from pipeline.datasets.kmnist import kmnist
from pipeline.datasets.mnist import mnist

DATASETS: dict[str, Callable[[Sequence[str]], Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "kmnist": kmnist,
    "digits": digits,
}


def load(name: str, mirrors: Sequence[str] = ()) -> Dataset:
    """Return the data set ``name``, asking ``mirrors`` (folders, ``file:`` or ``http(s):`` URLs) before the published ones.

    Raises ValueError for an unknown name, Unavailable when no mirror has the files (see pipeline.datasets.transfer), and
    IntegrityError when one serves something else in their place.
    """
    if name not in DATASETS:
        raise ValueError(f"{name!r} is no data set; there are {', '.join(DATASETS)}")
    return DATASETS[name](mirrors)
