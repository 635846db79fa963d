"""What finished and running runs look like: records, curves, mistakes."""
