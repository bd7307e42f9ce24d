"""Measurements side by side: what `vlm bench` runs."""
