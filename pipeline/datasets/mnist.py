"""MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 (LeCun, Cortes and Burges; CC BY-SA 3.0)."""

from pipeline.datasets.idx import IdxDataset, idx_file

mnist = IdxDataset(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        idx_file(
            "train-images-idx3-ubyte",
            (60_000, 28, 28),
            sha256="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        idx_file(
            "train-labels-idx1-ubyte",
            (60_000,),
            sha256="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        idx_file(
            "t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            sha256="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        idx_file(
            "t10k-labels-idx1-ubyte",
            (10_000,),
            sha256="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)
