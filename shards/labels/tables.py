"""Tables that label images, read: CSV, TSV, JSON Lines and parquet, a row an image."""

import codecs
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, DataError, UsageError
from fracgen.shards.fields import Setting
from fracgen.shards.files import read_plain
from fracgen.shards.settings import check_settings, nearest

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS = ("file", "file_name", "filename", "path"), ("label", "class"), ("split",)
"""How the columns are called where nobody says it, in any case of letters."""
_DELIMITERS = ",;\t|"
_MOST_BYTES, _MOST_ROWS = 1 << 30, 100_000_000
_UNSUPPORTED_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("objects", "bbox", "bboxes", "boxes", "xmin"), "boxes"),
    **dict.fromkeys(("mask", "masks", "segmentation", "annotation"), "masks (segmentation)"),
    **dict.fromkeys(("labels", "classes", "tags"), "several labels for an image (multi-label)"),
    **dict.fromkeys(("target", "score", "value", "rating"), "regression"),
    **dict.fromkeys(("text", "caption"), "captions"),
}
"""Columns by which sets for other tasks are known, where there is none of labels."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table, or features of a saved data set, hold what; "" for the usual names."""

    file_column: Annotated[
        str,
        Setting(
            "Column of a table with the images' files, below its folder.",
            default="file, file_name, filename or path",
            metavar="<name>",
            panel="Images",
            identity=False,
        ),
    ] = ""
    label_column: Annotated[
        str,
        Setting(
            "Column of a table with the labels.",
            default="label or class",
            metavar="<name>",
            panel="Images",
            identity=False,
        ),
    ] = ""
    split_column: Annotated[
        str,
        Setting(
            "Column of a table with the splits.",
            default="split, where there is one",
            metavar="<name>",
            panel="Images",
            identity=False,
        ),
    ] = ""

    def __post_init__(self) -> None:
        """Raises UsageError for values that are no text."""
        check_settings(self)


@dataclass(frozen=True)
class Table:
    """The columns of a table that label images. splits: None where it has no such column. is_text: no types in it.

    lines: of each row in the file, counted from 1; None where the format has none. unread: the other columns' names.
    """

    path: Path
    files: Sequence[Any]
    labels: Sequence[Any]
    splits: Sequence[Any] | None
    lines: Sequence[int] | None
    unread: tuple[str, ...]
    is_text: bool

    def describe(self, row: int) -> str:
        """The place of a row, as in "line 7", and its file."""
        return f"{f'line {self.lines[row]}' if self.lines is not None else f'row {row}'}: {str(self.files[row])[:80]!r}"


def is_table(path: Path) -> bool:
    """Whether a path is that of a file which is read as a table, by its extension."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def has_labels(path: Path, columns: Columns) -> bool:
    """Whether a table has a column of labels, by its first line or its schema; True where that cannot be read."""
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            names = list(parquet.read_schema(path).names)
        else:
            with path.open("rb") as file:
                first = file.readline(1 << 20).decode("utf-8-sig").strip()
            is_json = path.suffix.lower() == ".jsonl"
            names = (
                list(json.loads(first)) if is_json else next(csv.reader([first], delimiter=_delimiter(first, columns)))
            )
    except Exception:  # of json, csv, pyarrow or the encoding: reading the table says it
        return True
    known = (columns.label_column,) if columns.label_column else LABEL_COLUMNS
    return any(name == columns.label_column or name.strip().lower() in known for name in names)


def read_table(path: Path, columns: Columns) -> Table:
    """Read the columns of a table that label images.

    Text is UTF-8, or UTF-16 with its mark; a CSV's columns are divided by comma, semicolon, tab or bar, as its first
    line shows. Of parquet, only these columns are read.
    Raises UsageError for columns that are not there, rows that have more or fewer cells than the first line, and tables
    without rows or too large; DataError for bytes that are no such table.
    """
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, columns)
    text = _decode(path)
    if path.suffix.lower() == ".jsonl":
        return _read_json_lines(path, text, columns)
    return _read_cells(path, text, columns)


def _decode(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: {path.stat().st_size:,} bytes; tables of text have at most {_MOST_BYTES:,}")
        data = read_plain(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(LFS_POINTER):
        raise DataError(f"{path}: {LFS_ADVICE}")
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line} is not UTF-8; save the table in that encoding") from None


def _read_cells(path: Path, text: str, columns: Columns) -> Table:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text, columns)
    rows, lines, ragged = list[list[str]](), list[int](), list[str]()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        chosen, unread = _choose(header, columns, path)
        for row in reader:
            if len(row) == len(header):
                rows.append([row[column].strip() for column in chosen])
                lines.append(reader.line_num)
            elif any(cell.strip() for cell in row):
                ragged.append(f"line {reader.line_num}: {len(row)}")
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from None
    if ragged:
        raise UsageError(
            f"{path}: {len(ragged):,} rows have not the {len(header)} cells of the first line ({_few(ragged)}); "
            "a cell with the divider in it stands in double quotes"
        )
    by_column = [[row[place] for row in rows] for place in range(len(chosen))]
    return _table(path, by_column, lines=lines, unread=unread, is_text=True)


def _delimiter(text: str, columns: Columns) -> str:
    """What divides the cells: that by which the first line has the column of files, else what it has most of."""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0][: csv.field_size_limit()]  # longer: reading it all says so
    known = {name.lower() for name in ((columns.file_column,) if columns.file_column else FILE_COLUMNS)}

    def rank(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([first], delimiter=delimiter), [])
        return any(name.strip().lower() in known for name in names), len(names)

    return max(_DELIMITERS, key=rank)


def _read_json_lines(path: Path, text: str, columns: Columns) -> Table:
    rows, lines, names = list[dict[str, Any]](), list[int](), dict[str, None]()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is no JSON object; a line an image, as in {{...}}")
        rows.append(row)
        lines.append(number)
        names.update(dict.fromkeys(row))
    columns_there = list(names)
    chosen, unread = _choose(columns_there, columns, path)
    by_column = [[row.get(columns_there[place]) for row in rows] for place in chosen]
    return _table(path, by_column, lines=lines, unread=unread, is_text=False)


def _read_parquet(path: Path, columns: Columns) -> Table:
    try:
        from pyarrow import ArrowException, parquet
        from pyarrow.types import is_struct
    except ImportError:
        raise UsageError(f"{path}: parquet needs pyarrow: pip install 'fracgen[datasets]'") from None
    try:
        file = parquet.ParquetFile(path)
        if file.metadata.num_rows > _MOST_ROWS:
            raise UsageError(f"{path}: {file.metadata.num_rows:,} rows; at most {_MOST_ROWS:,} are read")
        names = list(file.schema_arrow.names)
        chosen, unread = _choose(names, columns, path)
        if is_struct(file.schema_arrow.field(chosen[0]).type):
            raise UsageError(
                f"{path}: column {names[chosen[0]]!r} holds the images themselves; load it with Hugging Face datasets, "
                "and give the folder that save_to_disk writes"
            )
        read = file.read(columns=[names[place] for place in chosen])
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: no whole parquet file ({' '.join(str(error).split())[:200]})") from None
    by_column = [plain_values(read.column(names[place]), str(path)) for place in chosen]
    return _table(path, by_column, lines=None, unread=unread, is_text=False)


def plain_values(column: Any, source: str) -> list[Any]:
    """The values of a column of arrow's, checked: of damaged offsets arrow would read anywhere.

    Raises DataError for what is damaged, and for values that Python has none for, as dates after the year 9999.
    """
    from pyarrow import ArrowException

    try:
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
    except (ArrowException, ValueError, OverflowError) as error:
        raise DataError(f"{source}: a column cannot be read ({' '.join(str(error).split())[:200]})") from None
    return values


def _table(
    path: Path, by_column: list[list[Any]], *, lines: list[int] | None, unread: tuple[str, ...], is_text: bool
) -> Table:
    files, labels, *splits = by_column
    if not files:
        raise UsageError(f"{path}: no rows in it")
    return Table(path, files, labels, splits[0] if splits else None, lines, unread, is_text)


def _choose(names: list[str], columns: Columns, path: Path) -> tuple[list[int], tuple[str, ...]]:
    """(places of the columns of files, labels and splits, as far as there are such; the other columns' names)."""
    if doubled := sorted({name for name in names if names.count(name) > 1 and name}):
        raise UsageError(f"{path}: two columns are called {doubled[0]!r}")
    file = pick(names, columns.file_column, FILE_COLUMNS, "--file-column", str(path))
    label = pick(names, columns.label_column, LABEL_COLUMNS, "--label-column", str(path))
    split = pick(names, columns.split_column, SPLIT_COLUMNS, "--split-column", str(path))
    if file is None or label is None:
        what, usual = ("files", FILE_COLUMNS) if file is None else ("labels", LABEL_COLUMNS)
        other = next((task for name, task in _UNSUPPORTED_COLUMNS.items() if name in map(str.lower, names)), "")
        raise UsageError(
            f"{path}: no column of {what} ({', '.join(usual)}) among {_few(list(map(repr, names)), 8) or 'none'}; "
            f"name it by --{what[:-1]}-column" + (f"; {other} are not supported" if other and label is None else "")
        )
    chosen = [file, label, *([split] if split is not None else [])]
    return chosen, tuple(name for place, name in enumerate(names) if place not in chosen and name)


def pick(names: Sequence[str], typed: str, usual: Sequence[str], option: str, source: str) -> int | None:
    """The place of a column: the one that was typed, else the only one with a usual name; None where there is none.

    Raises UsageError where there is none of the typed name, or several of usual names.
    """
    if typed:
        if typed not in names:
            raise UsageError(
                f"{source}: {option} {typed}: no such column{nearest(typed, names)}; there are "
                f"{_few(list(map(repr, names)), 8)}"
            )
        return names.index(typed)
    places = [place for place, name in enumerate(names) if name.lower() in usual]
    if len(places) > 1:
        candidates = " and ".join(repr(names[place]) for place in places)
        raise UsageError(f"{source}: columns {candidates} could both be meant; name one by {option}")
    return places[0] if places else None


def _few(words: Sequence[str], count: int = 3) -> str:
    return ", ".join(words[:count]) + (", ..." if len(words) > count else "")
