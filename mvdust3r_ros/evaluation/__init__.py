"""Judging results against the truth: numbers, pictures, runs over recordings."""
