"""Runs commands of one engine, each a process of its own: `python command_server.py ENGINE`, driven line by line.

The engine is imported once; every command is a fork, which has not yet touched a device. A line of input is a JSON object
{module, argv, folder}; the line of output is {status, stdout, stderr}.
"""

import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback


def main(engine: str) -> None:
    for command in ("train", "evaluate", "predict"):
        importlib.import_module(f"{engine}.{command}").load_main()
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            child = os.fork()
            if not child:
                run(order, stdout.fileno(), stderr.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            answer = {"status": status}
            for name, file in (("stdout", stdout), ("stderr", stderr)):
                file.seek(0)
                answer[name] = file.read()
        print(json.dumps(answer), flush=True)


def run(order: dict, stdout: int, stderr: int) -> None:
    """What `python -m MODULE ARGV...` does in `folder`, in this process, which ends with it."""
    status = 1
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.chdir(order["folder"])
        module = order["module"]
        sys.modules.pop(module)  # runpy would warn that it was imported before
        sys.argv = [module, *order["argv"]]
        runpy.run_module(module, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:  # noqa: BLE001  the fork must not return into its parent's loop
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
