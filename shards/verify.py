"""Whether a folder is what its manifest says: every byte, every pixel, every label."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.errors import DataError
from shards.manifest import MANIFEST, PARTIAL, Manifest, PixelHash, ShardRecord, sidecars
from shards.reader import ShardFolder, decode_sample, read_tar


def verify_folder(shards: ShardFolder, *, workers: int = 1) -> list[str]:
    """All that is wrong with a finished folder, one line each with the name of what is bad; empty if nothing is.

    Checked are the size and sha256 of each tar; that it opens, holds the samples that the layout puts there in that
    order, and members that the contract names; that labels are in range and images decode to the stated size and
    mode; the hash of pixels and labels; the totals; and the sidecars.
    """
    folder, manifest = shards.folder, shards.manifest
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda shard: _verify_shard(folder, manifest, shard), range(len(manifest.shards)))
        problems = [problem for problems in found for problem in problems]
    return problems + _verify_sidecars(folder, manifest) + _verify_totals(folder, manifest)


def _verify_shard(folder: Path, manifest: Manifest, shard: int) -> list[str]:
    record, layout = manifest.shards[shard], manifest.layout
    path = folder / record.name
    try:
        size, digest = path.stat().st_size, _sha256(path)
    except OSError as error:
        return [f"{record.name}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"]
    problems = []
    if size != record.bytes:
        problems.append(f"{record.name}: {size} bytes, the manifest says {record.bytes}")
    elif digest != record.sha256:
        problems.append(f"{record.name}: sha256 differs from the manifest's")
    try:
        problems += _verify_samples(path, manifest, record, [layout.key(index) for index in layout.indices(shard)])
    except DataError as error:
        problems.append(str(error))
    return problems


def _verify_samples(path: Path, manifest: Manifest, record: ShardRecord, expected: list[str]) -> list[str]:
    problems, keys, pixels = [], [], PixelHash()
    shape = manifest.image.shape
    for raw in read_tar(path, manifest.image.extension):
        keys.append(raw.key)
        where = f"{record.name}: sample {raw.key}"
        if not 0 <= raw.label < manifest.num_classes:
            problems.append(f"{where}: label {raw.label} is not in 0..{manifest.num_classes - 1}")
        if manifest.layout.metadata and not raw.metadata:
            problems.append(f"{where}: no metadata")
        try:
            sample = decode_sample(raw, manifest.layout.png_bits)
        except DataError as error:
            problems.append(f"{record.name}: {error}")
            continue
        if sample.image.shape != shape:
            problems.append(f"{where}: shape {sample.image.shape}, the manifest says {shape}")
        pixels.update(sample.image, sample.label)
    if keys != expected:
        problems.append(f"{record.name}: its {len(keys)} keys are not the {len(expected)} of the layout, in order")
    if len(keys) != record.samples:
        problems.append(f"{record.name}: {len(keys)} samples, the manifest says {record.samples}")
    if not problems and pixels.hexdigest() != record.pixels_sha256:
        problems.append(f"{record.name}: pixels or labels differ from the manifest's hash")
    return problems


def _verify_sidecars(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    for name, text in sidecars(manifest):
        try:
            same = (folder / name).read_bytes() == text.encode()
        except FileNotFoundError:
            problems.append(f"{name}: missing")
            continue
        if not same:
            problems.append(f"{name}: differs from what the manifest says")
    return problems


def _verify_totals(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    stated = json.loads((folder / MANIFEST).read_text("utf-8"))
    for name, value in manifest.to_dict().items():
        if stated.get(name) != value:
            problems.append(f"dataset.json: {name} does not follow from the shards it lists")
    known = {record.name for record in manifest.shards}
    for path in sorted(folder.glob("*.tar")):
        if path.name not in known:
            problems.append(f"{path.name}: not in the manifest, and readers would take it for data")
    if (folder / PARTIAL).exists():
        problems.append(f"{PARTIAL}: left by an interrupted run; the command that made the folder removes it")
    return problems


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
