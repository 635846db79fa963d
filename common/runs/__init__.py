"""A run and its folder: plan, checkpoints, logs, resuming, and what evaluate, predict and export prepare."""
