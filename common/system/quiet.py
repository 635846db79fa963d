"""Imported by every command before anything else: Ctrl-C while modules are imported ends it without a traceback.

From where `exit_with_sentence` begins, Ctrl-C is Python's KeyboardInterrupt again. Nothing happens in other programs.
"""

import signal
import sys

OURS = ("common", "bit_pytorch", "bit_jax", "bit_tf2")
program = getattr(sys.modules.get("__main__"), "__spec__", None)
if program and program.name.partition(".")[0] in OURS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
