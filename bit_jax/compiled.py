"""What XLA compiles is kept between commands, so that the second run of a shape starts sooner."""

import hashlib
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from common.system.environment import instructions
from common.system.files import cache_folder

MOST_BYTES = 2**30  # of compiled programs; those that were not used for the longest time go first


def keep_compiled() -> None:
    """Let JAX keep programs in a folder for processors like this one, below the user's cache folder.

    A program of another processor may hold instructions that this one lacks. Nothing changes where
    JAX_COMPILATION_CACHE_DIR is set, and nothing is kept where the folder cannot be written.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = cache_folder() / "jax" / hashlib.sha256(instructions().encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_torn(folder)
    except (OSError, Timeout):
        return
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def remove_torn(folder: Path) -> None:
    """Remove programs whose writing was interrupted: JAX would neither write them again nor, beside them, any other.

    It writes NAME-cache, then NAME-atime, in the lock of this file (`jax/_src/lru_cache.py`; findings/jax_programs.sh).
    """
    with FileLock(folder / ".lockfile", timeout=10):
        for program in folder.glob("*-cache"):
            if not program.with_name(f"{program.name.removesuffix('-cache')}-atime").is_file():
                program.unlink()
