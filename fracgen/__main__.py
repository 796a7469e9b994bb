"""`fracgen`, and `python -m fracgen`."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; an interrupt is one line, while the imports run too."""
    try:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by the caller
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  it stays open
            getattr(sys, name).reconfigure(errors="backslashreplace")
        from fracgen.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("fracgen: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
