"""Contenders in processes of their own, whose repeats are interleaved; their time and their memory."""

import importlib
import multiprocessing
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ENGINES = ("bit_pytorch", "bit_jax", "bit_tf2")


Work = Callable[[], float | None]  # one repeat; returns its own figure, or None for its seconds


# Freed memory returns to the system at once, so that what is in use can be seen from outside.
EXACT_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


PAGE_BYTES = resource.getpagesize()


class Repeat(NamedTuple):
    """One repeat of a contender."""

    figure: float  # its own, or its seconds
    cpu_seconds: float  # of all threads, and of processes that have ended


def import_engine(engine: str) -> tuple:
    """(api, inference, loop, optim) of an engine."""
    if engine == "bit_tf2":
        importlib.import_module(engine).import_tensorflow()
    return tuple(importlib.import_module(f"{engine}.{part}") for part in ("api", "inference", "loop", "optim"))


def serve(connection, prepare: Callable[..., Work], arguments: tuple) -> None:
    """A contender's process: prepare, warm up once, then answer every request with one figure."""
    try:
        work = prepare(*arguments)
        work()
        connection.send(None)
        while connection.recv():
            started, cpu_started = time.perf_counter(), cpu_seconds()
            figure = work()
            seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu_started
            connection.send(Repeat(seconds if figure is None else figure, cpu))
    except (EOFError, KeyboardInterrupt):
        pass


def cpu_seconds() -> float:
    """Of this process, and of those that it started and that have ended."""
    return sum(os.times()[:4])


def measure(contenders: dict[str, tuple], repeats: int, at_once: bool = False) -> dict[str, list[Repeat]]:
    """{row: its repeats}, from {row: (prepare, *arguments)}; one contender works at a time.

    With `at_once` they prepare themselves side by side, where there are cores for it.
    """
    workers = {}
    for row, worker in [(row, begin(*work)) for row, work in contenders.items()] if at_once else begun(contenders):
        try:
            worker[1].recv()
            workers[row] = worker
        except EOFError:
            print(f"  {row}: its process ended without a figure (see above)", flush=True)
    figures = {row: [] for row in workers}
    for _ in range(repeats):
        for row, (_, connection) in workers.items():
            connection.send(True)
            figures[row].append(connection.recv())
    for process, connection in workers.values():
        connection.send(False)
        process.join(30)
        process.kill()
    return figures


def begun(contenders: dict[str, tuple]) -> Iterator[tuple[str, tuple]]:
    """(row, `begin`) of each contender, once the one before is ready."""
    for row, work in contenders.items():
        yield row, begin(*work)


def begin(prepare: Callable[..., Work], *arguments) -> tuple:
    """(process, connection) of a contender, which says when it is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, prepare, arguments), daemon=False)
    process.start()
    theirs.close()
    return process, ours


def median(repeats: list[Repeat]) -> Repeat:
    """Of the figures and of the CPU seconds."""
    return Repeat(*map(statistics.median, zip(*repeats)))


def show(title: str, rows: dict[str, list[Repeat]], unit: str, scale: float = 1.0) -> None:
    """Print one table; where it has seconds, also those of the processor, which depend less on what else a machine does."""
    timed = unit in ("s", "ms")
    cpu_title = f"   {'CPU':>10}  ratio" if timed else ""
    print(f"\n{title}\n  {'':<28} {'median':>10} {'range':>21}  ratio{cpu_title}", flush=True)
    first = None
    for row, repeats in rows.items():
        middle, figures = median(repeats), [repeat.figure * scale for repeat in repeats]
        first = first or middle
        spread = f"{min(figures):,.4g} .. {max(figures):,.4g}"
        cpu = f"   {middle.cpu_seconds * scale:>10,.4g}  {middle.cpu_seconds / first.cpu_seconds:.2f}" if timed else ""
        ratio = middle.figure / first.figure
        print(f"  {row:<28} {middle.figure * scale:>10,.4g} {spread:>21}  {ratio:.2f} {cpu}   {unit}", flush=True)


def in_fresh_process(function: Callable, *arguments):
    """What `function` returns in a process of its own, whose memory nothing has used before."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def peak_growth_bytes(engine: str, work: Callable[[], None]) -> float:
    """Largest growth of the memory in use while `work` runs: the GPU's where there is one, else the process's."""
    if engine == "bit_pytorch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            return torch.cuda.max_memory_allocated() - before
    resting, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return peak - resting


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def growing(size: int, prepare: Callable[..., Work], *arguments) -> Work:
    """Growth of memory during some work, relative to a size in bytes."""
    work = prepare(*arguments)
    return lambda: peak_growth_bytes("the process", work) / size
