"""Ablations: variants trained alone, each on the same seeds, and what the differences show."""
