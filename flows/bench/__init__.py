"""Benchmarks behind `lethe bench`: each measures the product's own path, and prints what was measured and nothing else."""
