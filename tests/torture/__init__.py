"""Faults injected into the real commands, in private copies of a tiny repository; `make torture` runs them and prints a table."""
