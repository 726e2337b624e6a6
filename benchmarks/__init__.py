"""Side-by-side measurements, one command each; what they gave is in benchmarks/README.md."""
