#!/usr/bin/env bash
# JAX keeps a compiled program in two files, NAME-cache and then NAME-atime. When a limit of size is set and one NAME-atime
# is missing, because a process was killed between both or because the folder was filled before a limit was set, no program
# is written any more, by no process: each attempt ends in a warning that names a file which never was. A NAME-cache that
# was cut off is not mended either: every process warns, compiles and leaves it. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q jax==0.10.2 jaxlib==0.10.2 filelock==4.2.11
cat >compute.py <<'PYTHON'
import sys
import warnings

import jax

folder, most_bytes, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_compilation_cache_max_size", most_bytes)
with warnings.catch_warnings(record=True) as met:
    warnings.simplefilter("always")
    jax.jit(lambda x: x + 1)(jax.numpy.ones(size)).block_until_ready()
print(*sorted({str(one.message)[:78].replace(folder, "FOLDER") for one in met}), sep="\n")
PYTHON
export JAX_PLATFORMS=cpu
count() { find programs -name '*-cache' | wc -l; }
venv/bin/python -c "import jax; print('jax', jax.__version__)"
venv/bin/python compute.py programs -1 3
before=$(count)
echo "a limit, in a folder filled without one:"
venv/bin/python compute.py programs 1000000000 4 | tee said
after=$(count)
echo "programs: $before, then $after"
grep -q "Error writing persistent compilation cache entry" said
[ "$before" = "$after" ]
echo "a program cut off, twice:"
for file in programs/*-cache; do head -c 20 "$file" >cut && mv cut "$file"; done
for _ in 1 2; do venv/bin/python compute.py programs -1 3 | tee said; grep -q "Error reading persistent compilation cache entry" said; done
