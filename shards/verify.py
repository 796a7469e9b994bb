"""Verify that a folder is what its manifest says: every byte, every pixel, every label."""

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fracgen.shards.cache import CacheError
from fracgen.shards.errors import LFS_ADVICE, LFS_POINTER, DataError, FracgenError
from fracgen.shards.files import sha256_of
from fracgen.shards.folder_files import ChangedError, FolderFiles
from fracgen.shards.manifest import MANIFEST, PARTIAL, Manifest, PixelHash, ShardRecord, differing_files, file_problem
from fracgen.shards.reader import EncodedSample, ShardFolder, check_label, check_original, decode_sample, read_tar
from fracgen.shards.tar_members import TAR_END, encode_member


def verify_folder(shards: ShardFolder, *, workers: int = 1) -> list[str]:
    """List what is wrong with a finished folder, a line each that names the bad file; empty for a good folder.

    Checked are the size and sha256 of each tar and of every other file; that a tar holds the samples that the layout
    puts there, in that order, and nothing else; that labels are in range and images decode to the stated size and
    mode; the hash of pixels and labels (of files as they were found: of bytes and labels); and that the manifest's
    totals and hash follow from what it lists. A file that is a link counts as what it points to. Of a URL, every file
    is fetched anew, though it may be in the cache, and once more where it is not as it should be.
    Raises ChangedError where the set at a URL has become another one, CacheError where the cache cannot hold a file.
    """
    files, manifest = shards.files, shards.manifest
    with ThreadPoolExecutor(workers) as pool:
        by_shard = pool.map(lambda shard: _verify_shard(files, shard), range(len(manifest.shards)))
        problems = [problem for problems in by_shard for problem in problems]
    return problems + _verify_small_files(files) + _verify_manifest(files)


def verify_hashes(folder: Path, manifest: Manifest, *, workers: int = 1) -> list[str]:
    """List the files whose size or sha256 is not the manifest's, a line each; what is in them is not looked at."""
    with ThreadPoolExecutor(workers) as pool:
        problems = pool.map(lambda record: _verify_hash(folder / record.name, record), manifest.shards)
        return [problem for problem in problems if problem] + differing_files(folder, manifest)


def _verify_hash(path: Path, record: ShardRecord) -> str:
    try:
        if (size := path.stat().st_size) != record.bytes:
            return f"{record.name}: {size} bytes, the manifest says {record.bytes}"
        return "" if sha256_of(path) == record.sha256 else f"{record.name}: sha256 differs from the manifest's"
    except OSError as error:
        return f"{record.name}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"


def unlisted_files(shards: ShardFolder) -> list[str]:
    """List what lies in a folder and is not looked at, as its manifest does not name it: "NAME (folder)", and so on.

    Tars are not among it: those `verify_folder` calls a problem, as readers would take them for data.
    """
    known = {MANIFEST, PARTIAL, *shards.manifest.files, *(record.name for record in shards.manifest.shards)}
    listing = shards.files.listing() or {}
    return [f"{name} ({kind})" for name, kind in listing.items() if name not in known and not name.endswith(".tar")]


def _verify_shard(files: FolderFiles, shard: int) -> list[str]:
    record = files.manifest.shards[shard]
    try:
        with files.anew(record.name) as path:
            return _verify_tar(path, files.manifest, shard)
    except OSError as error:
        return [f"{record.name}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}"]
    except (CacheError, ChangedError):
        raise
    except FracgenError as error:
        return [str(error)]


def _verify_tar(path: Path, manifest: Manifest, shard: int) -> list[str]:
    record, layout = manifest.shards[shard], manifest.layout
    if not stat.S_ISREG(path.stat().st_mode):
        return [f"{record.name}: not a plain file"]
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return [f"{record.name}: {LFS_ADVICE}"]
    if (size := path.stat().st_size) != record.bytes:
        return [f"{record.name}: {size} bytes, the manifest says {record.bytes}"]
    digest = sha256_of(path)
    problems = [] if digest == record.sha256 else [f"{record.name}: sha256 differs from the manifest's"]
    expected = [key for index in layout.indices(shard) if (key := layout.key(index)) not in record.skipped]
    return problems + _verify_samples(path, digest, manifest, record, expected)


def _verify_samples(path: Path, digest: str, manifest: Manifest, record: ShardRecord, expected: list[str]) -> list[str]:
    problems, keys, pixels, rewritten = [], [], PixelHash(), hashlib.sha256()
    extensions = ["cls", *(["json"] if manifest.layout.metadata else []), manifest.image.extension]
    for raw in read_tar(path, manifest.image.extension, name=record.name):
        keys.append(raw.key)
        for extension, data in raw.members.items():
            rewritten.update(encode_member(f"{raw.key}.{extension}", data))
        sample_name = f"{record.name}: sample {raw.key}"
        if list(raw.members) != extensions:
            problems.append(f"{sample_name}: members {', '.join(raw.members)}, expected {', '.join(extensions)}")
        if manifest.layout.metadata and not raw.metadata:
            problems.append(f"{sample_name}: no metadata")
        try:
            check_label(raw, manifest.num_classes)
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
    sample = decode_sample(raw, manifest)
    return PixelHash.digest(sample.image, sample.label, sample.labels)


def _verify_small_files(files: FolderFiles) -> list[str]:
    problems = []
    for name, digest in files.manifest.files.items():
        try:
            with files.anew(name) as path:
                problem = file_problem(name, path, digest)
        except FileNotFoundError:
            problem = f"{name}: missing"
        except (CacheError, ChangedError):
            raise
        except FracgenError as error:
            problem = str(error)
        problems += [problem] if problem else []
    return problems


def _verify_manifest(files: FolderFiles) -> list[str]:
    problems, manifest = [], files.manifest
    with files.using(MANIFEST) as path:
        if path.read_bytes() != manifest.to_bytes():
            problems.append(f"{MANIFEST}: its totals or its own sha256 do not follow from what it lists")
    known, listing = {record.name for record in manifest.shards}, files.listing() or {}
    for name in listing:
        if name.endswith(".tar") and name not in known:
            problems.append(f"{name}: not in the manifest, and readers would take it for data")
    if PARTIAL in listing:
        problems.append(f"{PARTIAL}: left by an interrupted run; the command that made the folder removes it")
    return problems
