"""Procedural rooms with exact ground truth, and the training of the small default model."""
