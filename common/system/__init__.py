"""Parts of any program: errors in one sentence, files never half-written, other machines, processes, progress."""
