"""`fracgen`, and `python -m fracgen`."""

import gc
import sys


def main() -> None:
    """Run the command line; an interrupt, and memory that is short, are one line while the imports run too."""
    gc.set_threshold(
        20_000
    )  # imports make many objects and no garbage; by default 4 percent of a start is spent on them
    try:
        from fracgen.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("fracgen: interrupted", file=sys.stderr)
        sys.exit(130)
    except MemoryError:
        print("fracgen: out of memory", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
