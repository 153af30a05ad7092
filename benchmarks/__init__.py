"""Benchmarks: `make bench` runs `python -m benchmarks`, which prints tables."""
