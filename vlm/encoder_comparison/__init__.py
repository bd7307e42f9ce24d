"""Encoders side by side: what `vlm encoder compare` runs."""
