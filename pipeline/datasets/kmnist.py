"""Kuzushiji-MNIST: 60,000 + 10,000 cursive Japanese characters, 28 x 28 (Clanuwat et al., 1812.01718; CC BY-SA 4.0).

What is published is the md5 of each ``.gz`` (torchvision), so only those very files are accepted.
"""

from pipeline.datasets.idx import IdxDataset, idx_file

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
