"""Benchmarks: what we cost beside what else there is, side by side in one run, as ratios."""
