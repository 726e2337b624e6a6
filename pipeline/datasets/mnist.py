"""MNIST and two data sets in its format: 60,000 training and 10,000 test images, 28 x 28.

MNIST: handwritten digits (LeCun, Cortes and Burges; CC BY-SA 3.0). Fashion-MNIST: clothing (Xiao, Rasul and Vollgraf, 1708.07747;
MIT). Kuzushiji-MNIST: cursive Japanese characters (Clanuwat et al., 1812.01718; CC BY-SA 4.0). For the latter two only the md5 of
each ``.gz`` is published (torchvision), so no other compression of them is accepted.
"""

from pipeline.datasets.idx import IdxDataset, idx_file

mnist = IdxDataset(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        idx_file("train-images-idx3-ubyte", (60_000, 28, 28), "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
        idx_file("train-labels-idx1-ubyte", (60_000,), "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        idx_file("t10k-images-idx3-ubyte", (10_000, 28, 28), "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        idx_file("t10k-labels-idx1-ubyte", (10_000,), "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    ),
)
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
kmnist = IdxDataset(
    "kmnist",
    ("https://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    (
        idx_file("train-images-idx3-ubyte", (60_000, 28, 28), gz_md5="bdb82020997e1d708af4cf47b453dcf7"),
        idx_file("train-labels-idx1-ubyte", (60_000,), gz_md5="e144d726b3acfaa3e44228e80efcd344"),
        idx_file("t10k-images-idx3-ubyte", (10_000, 28, 28), gz_md5="5c965bf0a639b31b8f53240b1b52f4d7"),
        idx_file("t10k-labels-idx1-ubyte", (10_000,), gz_md5="7320c461ea6c1c855c0b718fb2a4b134"),
    ),
)
