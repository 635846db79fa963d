#!/usr/bin/env bash
# tqdm(dynamic_ncols=True) shows nothing at all, not even counts, in a terminal that says it has 0 columns, as terminals of
# containers and of continuous integration do: isatty() is true, so programs that fall back to plain lines elsewhere are silent
# here, too. Without dynamic_ncols it shows its counts. Exits with 0 as long as that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q tqdm==4.70.1
venv/bin/python - <<'PYTHON'
import fcntl
import os
import pty
import struct
import termios

import tqdm

print("tqdm", tqdm.__version__)
found = {}
for columns in (80, 0):
    for dynamic in (True, False):
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
        with os.fdopen(writer, "w") as file, tqdm.tqdm(total=3, file=file, dynamic_ncols=dynamic, mininterval=0) as bar:
            for _ in range(3):
                bar.update()
            bar.close()
            shown = os.read(reader, 2**16).decode()
        found[columns, dynamic] = "it/s" in shown
        print(f"{columns} columns, dynamic_ncols={dynamic}: {shown.strip()[-60:]!r}")
raise SystemExit(found != {(80, True): True, (80, False): True, (0, True): False, (0, False): True})
PYTHON
