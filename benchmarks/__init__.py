"""What it costs: `make bench` runs `python -m benchmarks` and prints one table."""
