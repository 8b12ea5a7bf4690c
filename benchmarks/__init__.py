"""Benchmarks: speed and memory of training, sampling and data stages against references on the same machine."""
