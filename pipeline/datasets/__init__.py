"""The data sets by name: each a function of the mirrors to ask that returns a :class:`pipeline.data.Dataset`.

May import data, errors, startup and storage. A new data set is one file here and one entry below. Those of your own,
``folder.py`` and ``arrays.py``, are functions of a path.
"""

from collections.abc import Callable, Sequence

from pipeline.data import Dataset
from pipeline.datasets.digits import digits
from pipeline.datasets.mnist import fashion_mnist, kmnist, mnist
from pipeline.datasets.own import KINDS

Source = Callable[[Sequence[str]], Dataset]
DATASETS: dict[str, Source] = {"mnist": mnist, "fashion_mnist": fashion_mnist, "kmnist": kmnist, "digits": digits}


def load(name: str, mirrors: Sequence[str] = ()) -> Dataset:
    """Return a data set from ``mirrors`` (folders, ``file:`` or ``http(s):`` URLs) or, where none is given, the published ones.

    Raises ValueError for an unknown name, Unavailable when no mirror has the files (see pipeline.datasets.transfer), and
    IntegrityError when a mirror serves other bytes and none has the files.
    """
    if name not in DATASETS:
        raise ValueError(f"{name!r} is not a data set; allowed are {', '.join([*DATASETS, *KINDS])}")
    return DATASETS[name](mirrors)
