"""List the published models: `python -m common.models`, or those whose name holds a word: `python -m common.models ViT`."""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import sys
from pathlib import Path

from common.flags import Parser
from common.models import DOWNLOADS
from common.models.listing import listed
from common.system.errors import exit_with_sentence


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    parser = Parser(prog="python -m common.models", description=__doc__, allow_abbrev=False)
    parser.add_argument("words", nargs="*", metavar="WORD", help="a part of a name, whatever its case")
    parser.add_argument(
        "--bit_pretrained_dir", default=DOWNLOADS, help=f"folder of downloaded weights (default: {DOWNLOADS})"
    )
    with exit_with_sentence():
        args = parser.parse_args(sys.argv[1:])
        print(listed(args.words, Path(args.bit_pretrained_dir)))


if __name__ == "__main__":
    main()
