"""`fracgen`, and `python -m fracgen`."""

import sys


def main() -> None:
    """Run the command line; an interrupt is one line, while the imports run too."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        from fracgen.cli import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("fracgen: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
