"""Reports on finished and running runs: records, curves, mistakes."""
