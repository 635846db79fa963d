"""Datasets by name or folder, images as arrays, and batches as a function of (seed, step)."""
