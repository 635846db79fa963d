"""`python -m common.datasets prepare|check`, and `open_dataset` for Python: see common/data/catalogue.py."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.data.catalogue import open_dataset
from common.data.checked import describe, find_broken, listed
from common.data.prepare import PREPARED, prepare
from common.flags import Parser, check_range
from common.system.errors import UserError, exit_with_sentence, printable


def main(argv: Sequence[str] | None = None) -> None:
    """`prepare NAME` and `check DATASET`; a UserError ends with exit status 2."""
    with exit_with_sentence():
        try:
            flags = parser().parse_args(argv)
            if flags.command == "check":
                check_range("--workers", flags.workers, 1, 1024)
                check_dataset(flags.name, Path(flags.datadir), flags.tfds_data_dir, flags.workers)
            else:
                prepare(flags.name, flags.datadir, url_base=flags.url_base)
        except KeyboardInterrupt:
            sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """The flags of both commands."""
    whole = Parser(prog="python -m common.datasets", description="Prepare and check datasets.", allow_abbrev=False)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    fetch = commands.add_parser("prepare", help="fetch, verify and unpack a dataset", allow_abbrev=False)
    fetch.add_argument("name", metavar="NAME", help=f"one of {', '.join(PREPARED)}")
    fetch.add_argument("--url_base", metavar="URL", help="address of a mirror's folder (default: the publisher's)")
    look = commands.add_parser("check", help="decode all images, and list those that cannot be", allow_abbrev=False)
    look.add_argument(
        "name", metavar="DATASET", help="a name, tfds:NAME, wds: or parquet:PATTERN, or a folder, as train takes it"
    )
    look.add_argument("--tfds_data_dir", help="folder of prepared TFDS datasets (default: ~/tensorflow_datasets)")
    look.add_argument("--workers", type=int, default=os.cpu_count(), help="threads (default: one per CPU core)")
    for command in (fetch, look):
        command.add_argument("--datadir", default="data", help="folder of prepared datasets (default: data)")
    return whole


def check_dataset(name: str, datadir: Path, tfds_data_dir: str | None, workers: int) -> None:
    """Print all images of a dataset that cannot be decoded, whatever its size. UserError where there are any."""
    splits = open_dataset(name, datadir, tfds_data_dir).splits
    broken = {split: find_broken(own, workers, f"checking {split}") for split, own in splits.items()}
    for line in listed(splits, broken, sum(map(len, broken.values()))):
        print(line)
    if any(broken.values()):
        raise UserError(
            f"{describe(splits, broken)[:-1]}; replace or remove them, or leave them out with --on_broken_image skip."
        )
    print(f"All {sum(map(len, splits.values())):,} images of {printable(name)} can be decoded.")


if __name__ == "__main__":
    main()
