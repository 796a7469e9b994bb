"""`fracgen`, and `python -m fracgen`."""

import sys


def main() -> None:
    """Run the command line; an interrupt is one line, while the imports run too."""
    try:
        from fracgen.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("fracgen: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
