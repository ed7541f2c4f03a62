"""`python -m tokensieve`, or `tokensieve`: the command line program that the wheel carries."""

import os
import pathlib
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Becomes the program; it finds the shipped profiles in the package."""
    folder = pathlib.Path(__file__).parent
    program = folder / "bin" / "tokensieve"
    if not program.exists():
        sys.exit("tokensieve: this package was built without the command line program, which needs "
                 "CLI11 and fmt: apt-get install libcli11-dev libfmt-dev, then pip install again")
    os.environ.setdefault("TOKENSIEVE_SHARE", str(folder))
    os.execv(program, ["tokensieve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
