"""Verify that a folder is what its manifest says: every byte, every pixel, every label."""

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, DataError
from fracgen.shards.manifest import MANIFEST, PARTIAL, Manifest, PixelHash, ShardRecord, differing_files
from fracgen.shards.reader import EncodedSample, ShardFolder, check_original, decode_sample, read_tar
from fracgen.shards.tar_members import TAR_END, encode_member


def verify_folder(shards: ShardFolder, *, workers: int = 1) -> list[str]:
    """List what is wrong with a finished folder, a line each that names the bad file; empty for a good folder.

    Checked are the size and sha256 of each tar and of every other file; that a tar holds the samples that the layout
    puts there, in that order, and nothing else; that labels are in range and images decode to the stated size and
    mode; the hash of pixels and labels (of files as they were found: of bytes and labels); and that the manifest's
    totals and hash follow from what it lists. A file that is a link counts as what it points to.
    """
    folder, manifest = shards.folder, shards.manifest
    with ThreadPoolExecutor(workers) as pool:
        by_shard = pool.map(lambda shard: _verify_shard(folder, manifest, shard), range(len(manifest.shards)))
        problems = [problem for problems in by_shard for problem in problems]
    return problems + differing_files(folder, manifest) + _verify_manifest(folder, manifest)


def unlisted_files(shards: ShardFolder) -> list[str]:
    """List what lies in a folder and is not looked at, as its manifest does not name it: "NAME (folder)", and so on.

    Tars are not among it: those `verify_folder` calls a problem, as readers would take them for data.
    """
    known = {MANIFEST, PARTIAL, *shards.manifest.files, *(record.name for record in shards.manifest.shards)}
    others = sorted(path for path in shards.folder.iterdir() if path.name not in known and path.suffix != ".tar")
    return [f"{path.name} ({_kind(path)})" for path in others]


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "link"
    return "folder" if path.is_dir() else "file" if path.is_file() else "special file"


def _verify_shard(folder: Path, manifest: Manifest, shard: int) -> list[str]:
    record, layout = manifest.shards[shard], manifest.layout
    path = folder / record.name
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return [f"{record.name}: not a plain file"]
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                return [f"{record.name}: {LFS_ADVICE}"]
        if (size := path.stat().st_size) != record.bytes:
            return [f"{record.name}: {size} bytes, the manifest says {record.bytes}"]
        digest = _sha256(path)
        problems = [] if digest == record.sha256 else [f"{record.name}: sha256 differs from the manifest's"]
        expected = [key for index in layout.indices(shard) if (key := layout.key(index)) not in record.skipped]
        return problems + _verify_samples(path, digest, manifest, record, expected)
    except OSError as error:
        return [f"{record.name}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"]
    except DataError as error:
        return [str(error)]


def _verify_samples(path: Path, digest: str, manifest: Manifest, record: ShardRecord, expected: list[str]) -> list[str]:
    problems, keys, pixels, rewritten = [], [], PixelHash(), hashlib.sha256()
    extensions = ["cls", *(["json"] if manifest.layout.metadata else []), manifest.image.extension]
    for raw in read_tar(path, manifest.image.extension):
        keys.append(raw.key)
        for extension, data in raw.members.items():
            rewritten.update(encode_member(f"{raw.key}.{extension}", data))
        sample_name = f"{record.name}: sample {raw.key}"
        if list(raw.members) != extensions:
            problems.append(f"{sample_name}: members {', '.join(raw.members)}, expected {', '.join(extensions)}")
        if not 0 <= raw.label < manifest.num_classes:
            problems.append(f"{sample_name}: label {raw.label} is not in 0..{manifest.num_classes - 1}")
        if manifest.layout.metadata and not raw.metadata:
            problems.append(f"{sample_name}: no metadata")
        try:
            pixels.update(_digest(raw, manifest))
        except DataError as error:
            problems.append(f"{record.name}: {error}")
    if keys != expected or len(keys) != record.samples:
        problems.append(f"{record.name}: its {len(keys)} keys are not the {len(expected)} of the layout, in order")
    rewritten.update(TAR_END)
    if not problems and rewritten.hexdigest() != digest:
        problems.append(f"{record.name}: headers or padding are not as they were written")
    if not problems and pixels.hexdigest() != record.pixels_sha256:
        problems.append(f"{record.name}: pixels or labels differ from the manifest's hash")
    return problems


def _digest(raw: EncodedSample, manifest: Manifest) -> bytes:
    """The digest of a sample, whose image is decoded. Raises DataError where it cannot be."""
    if manifest.image.original:
        check_original(raw, manifest.image)
        return PixelHash.digest_file(raw.image_bytes, raw.label)
    sample = decode_sample(raw, manifest.image, manifest.layout.png_bits)
    return PixelHash.digest(sample.image, sample.label)


def _verify_manifest(folder: Path, manifest: Manifest) -> list[str]:
    problems = []
    if (folder / MANIFEST).read_bytes() != manifest.to_bytes():
        problems.append(f"{MANIFEST}: its totals or its own sha256 do not follow from what it lists")
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
