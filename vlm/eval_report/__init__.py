"""Finished runs of benchmarks as a page, a table and JSON, side by side."""
