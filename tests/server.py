"""Starts commands, each a process of its own: `python server.py PACKAGE`, driven line by line by processes.py.

The package, an engine or `common`, is imported once; every command is a fork, which has not yet touched a device. A line
of input is a JSON object: what `start` takes, answered with the id of the process, or what `wait` takes, answered with what
it returns.
"""

import atexit
import codecs
import gc
import importlib
import json
import os
import runpy
import select
import sys
import time
import traceback

import disturbances
from PIL import Image

CHILDREN = {}  # id -> {where it is heard: (1 for stderr or 0, decoder)}
UTF8 = codecs.getincrementaldecoder("utf-8")
IMPORTED_LATE = (  # by nearly every command, when it needs it
    "common.data.catalogue",
    "concurrent.futures.thread", "multiprocessing.synchronize", "numpy.ma", "cv2", "simplejpeg", "matplotlib.figure",
    "matplotlib.backends.backend_agg",
)  # fmt: skip


def main(package: str) -> None:
    if package == "common":
        importlib.import_module("numpy_engine").load_main()
        late = (*IMPORTED_LATE, "common.report", "common.convert", "common.download")
    else:
        for command in ("train", "evaluate", "predict"):
            importlib.import_module(f"{package}.{command}").load_main()
        late = IMPORTED_LATE
    for module in late:
        importlib.import_module(module)
    Image.init()
    gc.freeze()  # commands need not walk through all modules when they collect
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps((wait if "child" in order else start)(**order)), flush=True)


def start(**order) -> int:
    """Start a process; its id."""
    pipes = [os.pipe() for _ in ("stdout", "stderr")]
    child = os.fork()
    if not child:
        run([end for _, end in pipes], **order)
    for _, end in pipes:
        os.close(end)
    CHILDREN[child] = {said: (number, UTF8("replace")) for number, (said, _) in enumerate(pipes)}
    return child


def wait(child: int, seconds: float) -> tuple[int | None, list[str]]:
    """The exit status of a process, or None where it goes on for so long; and its new words on stdout and stderr.

    A status below zero is the signal that ended it.
    """
    texts, outputs, until = ["", ""], CHILDREN[child], time.monotonic() + seconds
    while outputs:
        ready = select.select(outputs, [], [], max(0, until - time.monotonic()))[0]
        if not ready:
            return None, texts
        for said in ready:
            (number, decoder), data = outputs[said], os.read(said, 2**16)
            texts[number] += decoder.decode(data)
            if not data:
                os.close(said)
                del outputs[said]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), texts


def run(
    outputs: list[int], module: str, argv: list[str], folder: str, variables: dict[str, str], **disturbance
) -> None:
    """What `python -m MODULE ARGV...` does in `folder`, disturbed, in this process, which ends with it."""
    status = 1
    try:
        for descriptor, output in enumerate(outputs, 1):
            os.dup2(output, descriptor)
        os.chdir(folder)
        os.environ.update(variables)
        disturbances.prepare(**disturbance)
        sys.modules.pop(module, None)  # runpy would warn that it was imported before
        sys.argv = [module, *argv]
        runpy.run_module(module, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001  the fork must not return into its parent's loop
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
