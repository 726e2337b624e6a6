"""Metrics of a trained model, one file per family; other rooms read the resulting arrays through results.py alone.
May import data, storage, stats, runtime, errors, params, classifier, models and, for logging, tracking."""
