"""Counts, energy and parity: numbers, no formatting."""
