"""Proof that the records of a packed row do not see each other. Read check.py first."""
