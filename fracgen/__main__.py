"""`fracgen`, and `python -m fracgen`."""

import gc
import sys


def main() -> None:
    """Run the command line; an interrupt, and memory that is short, are one line while the imports run too."""
    gc.set_threshold(200_000)  # imports make 120,000 objects and no garbage: looking for some takes 25 ms
    try:
        from fracgen.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        print("fracgen: interrupted", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, ImportError, OSError) as error:
        from fracgen.shards.commandline import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print("fracgen: out of memory", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
