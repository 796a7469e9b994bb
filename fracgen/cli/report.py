"""What the commands print: warnings on stderr, results on stdout, as text or as JSON."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fracgen.shards.errors import UsageError, one_line, printable
from fracgen.shards.files import write_atomically
from fracgen.shards.folder_files import FolderFiles
from fracgen.shards.manifest import Manifest
from fracgen.shards.urls import is_url

if TYPE_CHECKING:
    from fracgen.benchmark import Table
    from fracgen.executor import Result

_MOST_NAMES = 8
"""Of files, in one line."""


def warn(message: str) -> None:
    """Print a warning as one line on stderr."""
    print(f"fracgen: {one_line(message)}", file=sys.stderr)


def fetched(files: FolderFiles) -> None:
    """Print on stderr what was fetched for a folder at a URL, and the cache."""
    if note := files.cache_note():
        print(f"cache     {one_line(note)}", file=sys.stderr)


def write_png(path: Path, data: bytes) -> None:
    """Write a PNG file whole or not at all. Raises UsageError where it cannot be written, or is no plain file."""
    write_atomically(check_png(path), data, error=UsageError)


def check_png(path: Path) -> Path:
    """The path of a PNG that is to be written, links followed. Raises UsageError where it can be none."""
    path = Path(os.path.realpath(path))
    if path.is_dir() or not path.name:
        raise UsageError(f"{path}: is a folder; name a file")
    if path.suffix.lower() != ".png" or (path.exists() and not path.is_file()):
        raise UsageError(f"{path}: name a plain file that ends in .png")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; make it first")
    return path


def searched(count: int, provenance: Mapping[str, Any], out: Path | None, *, kept: bool, as_json: bool) -> None:
    """Print the closing block of `search`."""
    if as_json:
        print(json.dumps({"categories": count, **provenance, "folder": str(out) if out else None}, indent=1))
        return
    rejected = listed(provenance["candidate_rejections"])
    rows = [("categories", f"{count}, of {provenance['candidates']} candidates (rejected: {rejected})")]
    if out:
        rows += [("folder", f"{out}, {count} file{'s' * (count != 1)}")]
    elif kept:
        rows += [("kept", "for `fracgen baseline`; --out writes files")]
    _print_rows(rows)


def rendered(result: "Result", *, machine: str, as_json: bool) -> None:
    """Print the closing block of a command that renders. machine: on what it ran; "" where nothing did."""
    if as_json:
        print(json.dumps(_values(result), indent=1))
    else:
        _print_rows(_rendered_rows(result, machine))


def packed(results: Sequence["Result"], *, machine: str, as_json: bool) -> None:
    """Print the closing blocks of `pack`, one a folder; as JSON always a list."""
    if as_json:
        print(json.dumps([_values(result) for result in results], indent=1))
        return
    for result in results:
        _print_rows(_rendered_rows(result, machine))


def _values(result: "Result") -> dict[str, Any]:
    values = {
        "folder": str(result.folder),
        "images": result.num_samples,
        "new_images": result.new_samples,
        "seconds": result.seconds,
        "images_per_second": result.rate,
    }
    if (manifest := result.manifest) is None:
        return values
    return {
        **values,
        "images": manifest.num_samples,
        "classes": manifest.num_classes,
        "shards": len(manifest.shards),
        "bytes": manifest.num_bytes,
        "acceptance": manifest.acceptance,
        "rejections": manifest.rejections,
        "counts": manifest.counts,
        "provenance": dict(manifest.provenance),
        "recipe_hash": manifest.recipe_hash,
    }


def _rendered_rows(result: "Result", machine: str) -> list[tuple[str, str]]:
    manifest, folder = result.manifest, shlex.quote(str(result.folder))
    rows = [("time", _time(result, machine))] if machine else []
    if manifest is None:
        rows = [("images", f"{result.num_samples} of this part"), *rows]
        return [*rows, ("folder", str(result.folder)), ("next", f"fracgen merge {folder}, once all parts are there")]
    images = f"{manifest.num_samples} of {manifest.num_classes} classes, in {len(manifest.shards)} shards"
    size = f"{manifest.num_bytes:,} ({manifest.num_bytes / manifest.num_samples:,.0f} an image)"
    rows = [("images", images), ("bytes", size), *rows, *_origin(manifest)]
    again = "" if manifest.image.original else " --render"
    return [*rows, ("folder", str(result.folder)), ("next", f"fracgen verify {folder}{again}")]


def _time(result: "Result", machine: str) -> str:
    if not result.new_samples:
        return "nothing to do: all shards are there"
    before = result.num_samples - result.new_samples
    kept = f" ({before} were there)" if before else ""
    return f"{result.seconds:.2f} s, {result.rate:,.0f} images/s on {machine}{kept}"


def inspected(folder: str, manifest: Manifest, *, as_json: bool) -> None:
    """Print what `inspect` shows."""
    if as_json:
        print(manifest.to_bytes().decode(), end="")
        return
    image, bits = manifest.image, manifest.layout.png_bits
    recipe = {key: value for key, value in manifest.recipe.items() if not isinstance(value, dict | list)}
    sizes = [shard.bytes for shard in manifest.shards]
    size = f"{'' if image.one_size else 'up to '}{image.width} x {image.height}"
    encoding = "files as they were found" if image.original else f"{bits} bits"
    rows = [
        ("recipe", ", ".join(str(value) if key == "recipe" else f"{key} {value}" for key, value in recipe.items())),
        ("recipe hash", manifest.recipe_hash),
        ("images", f"{manifest.num_samples} of {manifest.num_classes} classes"),
        *([("labels", "several an image: `labels` in its metadata, one in its .cls")] if manifest.multi_label else []),
        ("format", f"{size} {image.extension}, mode {image.mode}, {encoding}"),
        ("shards", f"{len(sizes)}, {min(sizes):,} to {max(sizes):,} bytes, {sum(sizes):,} in all"),
        *_origin(manifest),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
        ("folder", folder),
    ]
    _print_rows(rows)


def verified(
    files: FolderFiles, problems: Sequence[str], unlisted: Sequence[str], *, rendered: int, as_json: bool
) -> None:
    """Print what `verify` found: problems on stderr, a summary on stdout. unlisted: files that it did not look at."""
    manifest = files.manifest
    if as_json:
        values = {"ok": not problems, "images": manifest.num_samples, "rendered": rendered, "problems": list(problems)}
        print(json.dumps({**values, "not_looked_at": list(unlisted)}, indent=1))
        return
    if unlisted:
        more = ", ..." if len(unlisted) > _MOST_NAMES else ""
        warn(f"not in the manifest, so not looked at: {', '.join(unlisted[:_MOST_NAMES])}{more}")
    for problem in problems:
        warn(problem)
    again = f", {rendered} of them rendered again" if rendered else ""
    mend = "; delete what is bad and run the command that made the folder"
    mend = f"{mend}, then publish it again" if is_url(str(files)) else mend
    verdict = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}{mend}" if problems else "all good"
    print(f"{manifest.num_samples} images in {len(manifest.shards)} shards{again}: {verdict}")


def measured(table: "Table", *, as_json: bool) -> None:
    """Print what `bench` measured."""
    if as_json:
        print(json.dumps(asdict(table), indent=1))
        return
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(title=table.title, title_justify="left", caption=table.caption, caption_justify="left")
    names = ["step", f"ms per {table.unit}", f"{table.unit}s/s"]
    names += ["of plain"] if any(row.speedup for row in table.rows) else []
    for name in names:
        grid.add_column(name, justify="left" if name == "step" else "right")
    for row in table.rows:
        ratio = f"{row.speedup:,.0f} x" if row.speedup else ""
        cells = [row.step, f"{row.milliseconds:.3f}", f"{1000 / row.milliseconds:,.0f}", ratio]
        grid.add_row(*cells[: len(names)])
    Console().print(grid)


def _origin(manifest: Manifest) -> list[tuple[str, str]]:
    """Rows on how the images came about: rejected draws, trimmed orbits, the base fractal or the categories."""
    provenance, rows = manifest.provenance, []
    if any(shard.rejections for shard in manifest.shards):
        rejected = listed(manifest.rejections)
        if manifest.image.original:
            rows += [("left out", f"{rejected}, of {manifest.layout.num_samples} files")]
        else:
            rows += [("accepted", f"{manifest.acceptance:.3f} of draws (rejected: {rejected})")]
    if manifest.counts:
        rows += [("counted", f"{listed(manifest.counts)}, of {manifest.num_samples} images")]
    if "base_acceptance" in provenance:
        acceptance = f"{100 * provenance['base_acceptance']:.1f} % of its perturbations passed when vetted"
        tries = provenance.get("base_tries")
        number = f"number {provenance.get('base')}, {tries} tried" if tries else "given"
        rows += [("base", f"{number}, {acceptance}")]
    if acceptances := provenance.get("base_acceptances", ()):
        numbers, tries = provenance.get("bases", ()), provenance.get("base_tries")
        origin = f"numbers {_first(numbers)}, {tries} tried" if numbers else "given"
        shares = _first([f"{100 * acceptance:.1f}" for acceptance in acceptances])
        passed = f"{shares} % of their perturbations passed when vetted"
        rows += [("bases", f"{len(acceptances)}, {origin}; {passed}")]
    if "candidates" in provenance:
        rejected = listed(provenance.get("candidate_rejections", {}))
        rows += [("categories", f"searched, of {provenance['candidates']} candidates (rejected: {rejected})")]
    elif "categories" in provenance:
        rows += [("categories", "given")]
    return rows


def _first(values: Sequence[Any]) -> str:
    """The first of some values, in a line."""
    return ", ".join(map(str, values[:_MOST_NAMES])) + (" ..." if len(values) > _MOST_NAMES else "")


def listed(counts: Mapping[str, int]) -> str:
    """Counts by name, in a line."""
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _print_rows(rows: Sequence[tuple[str, str]]) -> None:
    if not sys.stdout.isatty():
        for name, text in rows:
            print(f"{name:<12}{printable(text)}")
        return
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable.grid(padding=(0, 2))
    for name, text in rows:
        grid.add_row(name, Text(printable(text), overflow="fold"))
    Console(highlight=False).print(grid)
