"""What any program needs: errors in one sentence, files that are never half-written, other machines, processes, progress."""
