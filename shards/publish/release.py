"""What of a folder is published: its files with their hashes, checked before any of them leaves this machine."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from fracgen.shards.data_card import FORMULAS, UNKNOWN_LICENCE, CardText, data_card, to_yaml_head
from fracgen.shards.errors import DataError, UsageError
from fracgen.shards.files import check_folder, read_json, read_plain, sha256_of
from fracgen.shards.manifest import MANIFEST, Manifest, load_manifest
from fracgen.shards.sidecars import with_metadata
from fracgen.shards.verify import verify_hashes

CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
_LICENCE = re.compile(r"## Licence\n\n`[^`\n]*`[^\n]*\n")
Kind = Literal["dataset", "model"]


@dataclass(frozen=True, kw_only=True)
class ReleaseFile:
    """One file. path: where its bytes lie; or data: what they are. sha256: hex."""

    name: str
    num_bytes: int
    sha256: str
    path: Path | None = None
    data: bytes | None = None

    @property
    def git_blob(self) -> str:
        """The name that git has for the bytes: sha1 (hex) of them behind their length. Reads the file."""
        content = self.data if self.data is not None else self.path.read_bytes() if self.path else b""
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Release:
    """A folder as it is published.

    files: without the last one. last: the file that readers open first; as long as it is not there, nothing is.
    manifest: of a data set. licence: an identifier of the Hub's.
    """

    kind: Kind
    folder: Path
    files: tuple[ReleaseFile, ...]
    last: ReleaseFile
    licence: str
    manifest: Manifest | None = None

    @property
    def all_files(self) -> tuple[ReleaseFile, ...]:
        """In the order in which they are uploaded."""
        return (*self.files, self.last)


def release_kind(folder: Path) -> Kind:
    """What a folder holds. Raises UsageError where it is neither a set of shards nor a model that timm loads."""
    check_folder(folder)
    if (folder / CONFIG).is_file() and not (folder / MANIFEST).exists():
        return "model"
    if (folder / "model" / CONFIG).is_file():
        raise UsageError(f"{folder}: is the folder of a run; its model is {folder / 'model'}")
    load_manifest(folder)  # says what is missing
    return "dataset"


def dataset_release(folder: Path, text: CardText, *, workers: int = 1) -> Release:
    """A finished folder of shards, whose bytes have the sha256 that its manifest names.

    text: of the card; with another licence than the folder's card has, or where that is an older fracgen's, the card
    and the manifest are published as they would be, and the folder stays as it is.
    Raises UsageError where its images have no licence, DataError where a file is not what the manifest says.
    """
    manifest = load_manifest(folder)
    if not text.licence and text.source != FORMULAS:
        raise UsageError(
            f"{folder}: made from {text.source}, and only their owner can say under which licence; give --licence, as "
            "cc-by-4.0, or other"
        )
    if problems := verify_hashes(folder, manifest, workers=workers):
        more = f" and {len(problems) - 1} more faults (fracgen verify lists them)" if len(problems) > 1 else ""
        raise DataError(f"{folder}: {problems[0]}{more}; nothing was uploaded")
    has_preview = "preview.png" in manifest.files
    card = data_card(manifest, with_metadata(folder, manifest, text), has_preview=has_preview).encode()
    digest = hashlib.sha256(card).hexdigest()
    is_same = manifest.files.get(CARD) == digest
    published = replace(manifest, files={**manifest.files, CARD: digest})
    shards = [
        ReleaseFile(name=shard.name, num_bytes=shard.bytes, sha256=shard.sha256, path=folder / shard.name)
        for shard in manifest.shards
    ]
    others = [_of_path(folder / name) if is_same or name != CARD else _of_bytes(name, card) for name in published.files]
    return Release(
        kind="dataset",
        folder=folder,
        files=(*shards, *others),
        last=_of_path(folder / MANIFEST) if is_same else _of_bytes(MANIFEST, published.to_bytes()),
        licence=yaml.safe_load(card.split(b"---\n")[1])["license"],
        manifest=published,
    )


def model_release(folder: Path, licence: str = "") -> Release:
    """A model that timm loads: weights, card and configuration. licence: in place of the one that the card has.

    Raises UsageError where there is no card or no licence, DataError where a file is damaged.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config.get("architecture"), str):
        raise DataError(f"{folder / CONFIG}: names no architecture, so timm cannot load it")
    _check_safetensors(folder / WEIGHTS)
    head, body = read_card(folder / CARD)
    licence = licence or str(head.get("license", UNKNOWN_LICENCE))
    if licence == UNKNOWN_LICENCE:
        raise UsageError(
            f"{folder}: its weights come from images or weights of others, and nobody has said under which licence; "
            "give --licence, as apache-2.0, or other"
        )
    files = {CARD: read_plain(folder / CARD), CONFIG: read_plain(folder / CONFIG)}
    pretrained = config.get("pretrained_cfg")
    if licence != head.get("license"):
        body = _LICENCE.sub(f"## Licence\n\n`{licence}`. As stated by who published it.\n", body)
        files[CARD] = f"{to_yaml_head({**head, 'license': licence})}{body}".encode()
    if isinstance(pretrained, dict) and pretrained.get("license") != licence:
        pretrained["license"] = licence
        files[CONFIG] = json.dumps(config, indent=2).encode()
    return Release(
        kind="model",
        folder=folder,
        files=(_of_path(folder / WEIGHTS), _of_bytes(CARD, files[CARD])),
        last=_of_bytes(CONFIG, files[CONFIG]),
        licence=licence,
    )


def read_card(path: Path) -> tuple[Mapping[str, Any], str]:
    """(The YAML head, the text below it) of a card. Raises UsageError where there is none, DataError where damaged."""
    try:
        text = read_plain(path).decode()
    except FileNotFoundError:
        raise UsageError(
            f"{path}: missing; fracgen 0.4 writes it with the model, so run the command that trained it again, or "
            "write one"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    _, _, rest = text.partition("---\n")
    head, mark, body = rest.partition("\n---\n")
    try:
        values = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError):  # of its types, too
        values = None
    if not text.startswith("---\n") or not mark or not isinstance(values, dict):
        raise DataError(f"{path}: does not begin with a YAML head between two lines of dashes")
    return values, body


def _check_safetensors(path: Path) -> None:
    """Raises DataError where a file of weights is missing, or is not as long as its header says."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size - 8 else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        is_whole = bool(ends) and size == 8 + length + max(ends)
    except FileNotFoundError:
        raise DataError(f"{path}: missing") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error})") from error
    if not is_whole:
        raise DataError(f"{path}: damaged ({size:,} bytes are not what its header says)")


def _of_path(path: Path) -> ReleaseFile:
    return ReleaseFile(name=path.name, num_bytes=path.stat().st_size, sha256=sha256_of(path), path=path)


def _of_bytes(name: str, data: bytes) -> ReleaseFile:
    return ReleaseFile(name=name, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), data=data)
