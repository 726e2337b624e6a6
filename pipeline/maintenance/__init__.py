"""``latent doctor`` and ``latent verify``: find what is broken in a repository, its environment and its stored files.
May import tracking, the loaders of files, params, startup, storage and errors."""
