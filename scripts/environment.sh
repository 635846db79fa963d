# Sourced by the scripts: makes .venv with the whole stack on the first call, reuses it afterwards, and sets PYTHON.
# Only Python 3.11 or later is needed beforehand. Byte-code is made here, once: where PYTHONDONTWRITEBYTECODE is set, every
# import would compile its sources again, in twice the time.

environment_stamp() { cat pyproject.toml constraints.txt scripts/environment.sh | sha256sum; }

if [[ "$(cat .venv/.stamp 2>/dev/null)" != "$(environment_stamp)" ]]; then
    echo "Setting up .venv (once, a few minutes) ..." >&2
    ${PYTHON:-python3} -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: $(${PYTHON:-python3} --version 2>&1) was found, Python 3.11 or later is needed; set PYTHON=/path/to/python3.11." >&2
        exit 2
    }
    [[ -x .venv/bin/pip ]] || ${PYTHON:-python3} -m venv .venv
    .venv/bin/python -m uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install --quiet uv
    .venv/bin/python -m uv pip install --quiet --compile-bytecode --python .venv/bin/python --constraint constraints.txt --editable '.[all,dev]'
    environment_stamp >.venv/.stamp
fi
PYTHON="$PWD/.venv/bin/python"
