"""Fashion-MNIST: 60,000 + 10,000 pieces of clothing, 28 x 28 (Xiao, Rasul and Vollgraf, 1708.07747; MIT licence).

What is published is the md5 of each ``.gz`` (the authors' readme, torchvision), so only those very files are accepted.
"""

from pipeline.datasets.idx import IdxDataset, idx_file

fashion_mnist = IdxDataset(
    "fashion_mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    (
        idx_file("train-images-idx3-ubyte", (60_000, 28, 28), gz_md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        idx_file("train-labels-idx1-ubyte", (60_000,), gz_md5="25c81989df183df01b3e8a0aad5dffbe"),
        idx_file("t10k-images-idx3-ubyte", (10_000, 28, 28), gz_md5="bef4ecab320f06d8554ea6380940ec79"),
        idx_file("t10k-labels-idx1-ubyte", (10_000,), gz_md5="bb300cfdad3c16e7a12a480ee83cd310"),
    ),
)
