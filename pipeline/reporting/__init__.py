"""Reports across runs and revisions. Only cli.py imports it.
May import figures, models, tracking and the top-level modules of pipeline."""
