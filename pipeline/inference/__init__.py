"""What a trained model is used for: codes of images, images of codes, samples, neighbors, and ONNX files.

May import data, datasets, errors, models, options, runtime, startup, storage and tracking. A new command is a function in
``commands.py``."""
