"""MNIST and two data sets in its format: 60,000 training and 10,000 test images, 28 x 28.

MNIST: handwritten digits (LeCun, Cortes and Burges; CC BY-SA 3.0). Fashion-MNIST: clothing (Xiao, Rasul and Vollgraf, 1708.07747;
MIT). Kuzushiji-MNIST: cursive Japanese characters (Clanuwat et al., 1812.01718; CC BY-SA 4.0). For the last one only the md5 of
each ``.gz`` is published (torchvision), so no other compression of it is accepted.
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
    raw="MNIST/raw",
)
fashion_mnist = IdxDataset(
    "fashion_mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    (
        idx_file("train-images-idx3-ubyte", (60_000, 28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        idx_file("train-labels-idx1-ubyte", (60_000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
        idx_file("t10k-images-idx3-ubyte", (10_000, 28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        idx_file("t10k-labels-idx1-ubyte", (10_000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
    raw="FashionMNIST/raw",
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
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
    raw="KMNIST/raw",
    classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
)
