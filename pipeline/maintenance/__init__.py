"""``latent doctor`` and ``latent verify``: find what is broken in a repository, its environment and its stored files.
May import tracking, params, runtime, startup, storage and errors."""
