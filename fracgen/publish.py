"""Publish a folder of shards, or a model, on the Hugging Face Hub or at any URL that fsspec writes."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fracgen.registry import card_text, from_dict
from fracgen.shards.data_card import CardText
from fracgen.shards.errors import UsageError
from fracgen.shards.files import num_cores
from fracgen.shards.manifest import PACK, Manifest, load_manifest
from fracgen.shards.publish.hub import HubRepo, HubStore
from fracgen.shards.publish.release import Release, ReleaseFile, dataset_release, model_release, release_kind
from fracgen.shards.publish.store import FsspecStore, Store
from fracgen.shards.publish.upload import UploadPlan, plan_upload, upload
from fracgen.shards.remote import LOCAL, Url
from fracgen.shards.urls import is_url


@dataclass(frozen=True, kw_only=True)
class Published:
    """What was published, or would be. url: without secrets."""

    url: str
    release: Release
    plan: UploadPlan
    is_dry_run: bool


def publish(
    folder: Path | str,
    url: str,
    *,
    licence: str = "",
    revision: str = "",
    private: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    on_plan: Callable[[UploadPlan], None] | None = None,
    on_file: Callable[[ReleaseFile], None] | None = None,
) -> Published:
    """Check a folder, upload what is missing at a URL, and compare what arrived. Interrupted, the same call goes on.

    licence: an identifier of the Hub's, in place of the one that the card has. revision, private: of the Hub.
    replace: take the place of another set or model. dry_run: write nothing.
    on_plan: called before anything is written, on_file with each file that has arrived.
    Raises UsageError for a URL or a folder that cannot be, no token or licence, another set at the URL; DataError where
    the folder is damaged, or the other side fails to the last.
    """
    if "/" in licence or licence != licence.strip().lower() or " " in licence:
        raise UsageError(f"--licence {licence!r}: give one of the Hub's identifiers, as cc-by-4.0, mit, or other")
    folder = Path(folder)
    kind = release_kind(folder)
    store, place = open_store(url, kind, revision=revision, private=private)
    if kind == "dataset":
        text = card_text_of(folder, load_manifest(folder))
        release = dataset_release(folder, dataclasses.replace(text, licence=licence), workers=num_cores())
    else:
        release = model_release(folder, licence)
    plan = plan_upload(release, store, place, replace=replace)
    if on_plan:
        on_plan(plan)
    if not dry_run:
        upload(plan, store, last=release.last, on_file=on_file)
    return Published(url=place, release=release, plan=plan, is_dry_run=dry_run)


def open_store(url: str, kind: str, *, revision: str, private: bool) -> tuple[Store, str]:
    """(The place that a URL names, its text without secrets). Raises UsageError where it cannot be one for this."""
    if url.partition(":")[0].lower() == "hf":
        repo = HubRepo.parse(url, revision)
        if repo.kind != kind:
            right = f"hf://{'datasets/' if kind == 'dataset' else ''}{repo.id}"
            raise UsageError(f"{url}: the folder is a {'data set' if kind == 'dataset' else 'model'}; give {right}")
        return HubStore(repo, private=private), str(repo)
    if revision or private:
        option = "--revision" if revision else "--private"
        raise UsageError(f"{option}: is for the Hub (hf://...); what else is at {url} has its own rules")
    if not is_url(url) or url.partition(":")[0].lower() in LOCAL:
        raise UsageError(f"{url}: is no URL of another place; a finished folder may be copied as it is")
    place = Url.parse(url)
    if place.scheme in ("http", "https"):
        raise UsageError(f"{place}: plain HTTP is only read from; give hf://, s3:// or another")
    return FsspecStore(place), str(place)


def card_text_of(folder: Path, manifest: Manifest) -> CardText:
    """What the card of a finished folder says beside its manifest. folder: where the recipe's own files lie."""
    if manifest.recipe.get("recipe") == PACK:
        return CardText(source="image files")
    return card_text(from_dict(manifest.recipe, folder))
