"""Write a labels.csv beside the lists of each task of VTAB-1k, which `fracgen suite vtab-1k` reads.

    python examples/vtab_lists.py data/vtab-1k

A task's folder, as it is shared, has images and lists of lines "PATH LABEL": train800.txt, val200.txt and test.txt.
"""

import csv
import sys
from pathlib import Path

LISTS = {"train800.txt": "train", "val200.txt": "val", "test.txt": "test"}


def main(folder: Path) -> None:
    """Write the table of every task in a folder."""
    tasks = sorted(path.parent for path in folder.glob("*/train800.txt"))
    if not tasks:
        sys.exit(f"{folder}: no */train800.txt in it")
    for task in tasks:
        rows = [("file", "label", "split")]
        for name, split in LISTS.items():
            for line in (task / name).read_text("utf-8").splitlines():
                path, _, label = line.strip().rpartition(" ")
                if path:
                    rows.append((path, label, split))
        with (task / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        print(f"{task / 'labels.csv'}: {len(rows) - 1:,} images")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/vtab-1k"))
