"""The latent explorer: one HTML page in which the browser itself decodes the point under the pointer.
May import figures, evaluation.results and storage; the code that reads a sweep also imports models and data."""
