"""An engine needs the package `common` beside it; this module refuses another module of that name."""

import importlib.util
import itertools
import sys
from pathlib import Path


def check_common() -> None:
    """ImportError, and of a command its sentence and exit status 2, where `import common` would not find ours.

    A `common.py` or a package `common` in the working folder comes before what is installed. A plain folder of that name
    is joined with ours, and is in the way only where it has a file of the same name.
    """
    ours = Path(__file__).resolve().parent.with_name("common")
    names, spec = [path.name for path in ours.glob("[!_]*")], importlib.util.find_spec("common")
    places = [Path(place) for place in spec.submodule_search_locations or [spec.origin]] if spec else [ours]
    hiding = None if ours in (place.resolve() for place in places) else places[0]
    for place in itertools.takewhile(lambda place: place.resolve() != ours, places):
        hiding = hiding or next((place / name for name in names if (place / name).exists()), None)
    if not hiding:
        return
    sentence = (
        f"{hiding} is found where the package common of {Path(__file__).parent.name} is expected ({ours}); rename it, work "
        "in another folder, or set PYTHONSAFEPATH=1, which leaves the working folder out."
    )
    if sys.argv[:1] == ["-m"]:  # as long as Python looks for the module of `python -m`
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(sentence)
