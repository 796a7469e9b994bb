"""The Hugging Face Hub as a place to publish to: `hf://datasets/NAME/SET` and `hf://NAME/MODEL`.

Files travel as huggingface_hub sends them: large ones to the Hub's storage (xet, or git-LFS where hf_xet is missing or
`HF_HUB_DISABLE_XET=1`), which keeps what arrived before a commit names it. The token is huggingface_hub's own matter.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fracgen.shards.errors import DataError, FracgenError, UsageError
from fracgen.shards.publish.release import Kind, ReleaseFile
from fracgen.shards.publish.store import RemoteFile
from fracgen.shards.remote import MissingFileError, TransferError, retrying

T = TypeVar("T")
_REPO = re.compile(
    r"hf:/{1,2}(?P<datasets>datasets/)?(?P<id>(?!datasets/|spaces/|buckets/)[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?/?"
)
_HUBS_OWN = ".gitattributes"
"""All that a repository holds which the Hub has just made."""
_NOT_FOUND, _CONFLICT, _PRECONDITION = 404, 409, 412
_REFUSED = re.compile(r"HTTP status client error \(40[13]")
"""In the words of hf_xet, whose errors have no status."""


@dataclass(frozen=True, kw_only=True)
class HubRepo:
    """A repository. id: as in NAME/SET. revision: of a branch."""

    kind: Kind
    id: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str, revision: str = "") -> "HubRepo":
        """The repository of a URL. revision: a branch, where the URL names none. Raises UsageError for other URLs."""
        match = _REPO.fullmatch(text)
        if match is None:
            raise UsageError(f"{text}: give hf://datasets/NAME/SET for a data set, hf://NAME/MODEL for a model")
        if match["revision"] and revision and match["revision"] != revision:
            raise UsageError(f"{text}: names the revision {match['revision']}, and --revision {revision}")
        kind: Kind = "dataset" if match["datasets"] else "model"
        return cls(kind=kind, id=match["id"], revision=match["revision"] or revision or "main")

    def __str__(self) -> str:
        name = f"hf://{'datasets/' if self.kind == 'dataset' else ''}{self.id}"
        return name if self.revision == "main" else f"{name}@{self.revision}"


class ConflictError(DataError):
    """Somebody else changed the branch between two of our steps."""


class HubStore:
    """A repository's branch."""

    batch_files, batch_bytes = 100, 2 << 30
    """Of one commit: so much is sent before the next commit makes it visible."""

    def __init__(self, repo: HubRepo, *, private: bool = False) -> None:
        """private: whether the repository is made such that only its owner sees it; one that is there must be so.

        Raises UsageError where huggingface_hub or a token is missing.
        """
        try:
            from huggingface_hub import HfApi, get_token
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError:
            raise UsageError("huggingface_hub is not installed: pip install 'fracgen[hub]'") from None
        disable_progress_bars()
        self.repo, self._private = repo, private
        self._token = get_token() or ""
        if not self._token:
            raise UsageError(f"{repo}: no token; run `hf auth login`, or set HF_TOKEN")
        self._api = HfApi(token=self._token)
        self._head, self._is_there = "", False

    def listing(self) -> dict[str, RemoteFile]:
        """The files of the branch, by path; of one that is not there yet those of main, with which it will begin."""
        for revision in (self.repo.revision, "main"):
            with contextlib.suppress(MissingFileError):
                files = self._try(partial(self._list, revision))
                self._is_there = revision == self.repo.revision
                return files
        return {}

    def _list(self, revision: str = "") -> dict[str, RemoteFile]:
        revision = revision or self.repo.revision
        info = self._api.repo_info(self.repo.id, repo_type=self.repo.kind, revision=revision)
        self._head = info.sha or ""
        if self._private and not info.private:
            raise UsageError(f"{self.repo}: is public; change that on the Hub, or leave out --private")
        entries = self._api.list_repo_tree(
            self.repo.id, recursive=True, revision=info.sha or revision, repo_type=self.repo.kind
        )
        return {entry.path: _remote_file(entry) for entry in entries if hasattr(entry, "blob_id")}

    def is_same(self, file: ReleaseFile, remote: RemoteFile) -> bool:
        """Whether size and hash, as the Hub tells them, are those of a file."""
        if remote.num_bytes != file.num_bytes:
            return False
        return remote.sha256 == file.sha256 if remote.sha256 else remote.git_blob == file.git_blob

    def read(self, name: str) -> bytes:
        """A small file of what `listing` saw."""

        def read() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = self._api.hf_hub_download(
                    self.repo.id, name, repo_type=self.repo.kind, revision=self._head, local_dir=folder
                )
                return Path(path).read_bytes()

        return self._try(read)

    def create(self) -> None:
        """Make the repository and the branch, where they are not there yet.

        Raises ConflictError where somebody else made the branch since `listing` did not see it.
        """
        if self._is_there:
            return
        repo, seen = self.repo, self._head

        def make() -> None:
            self._api.create_repo(repo.id, repo_type=repo.kind, private=self._private or None, exist_ok=True)
            if repo.revision != "main":
                self._api.create_branch(
                    repo.id, repo_type=repo.kind, branch=repo.revision, revision=seen or None, exist_ok=True
                )

        self._try(make)
        files = self._try(self._list).keys() - {_HUBS_OWN}
        if (self._head != seen) if seen else files:
            raise self._conflict()

    def upload(self, files: Sequence[ReleaseFile]) -> None:
        """Commit files, and see that the Hub has them."""
        from huggingface_hub import CommitOperationAdd

        def send() -> None:
            sources = {file.name: file.data if file.data is not None else str(file.path) for file in files}
            additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=each) for name, each in sources.items()]
            self._commit(additions, f"Upload {len(files)} files" if len(files) > 1 else f"Upload {files[0].name}")

        def check() -> None:
            if missing := self._missing(files):
                raise TransferError(f"{missing[0]} did not arrive as it was sent")

        try:
            self._try(send)
        except ConflictError:
            if self._try(lambda: self._missing(files)):
                raise
            self._try(self._list)  # it was our own commit, of which no answer came back
        self._try(check)

    def _missing(self, files: Sequence[ReleaseFile]) -> list[str]:
        """Names of the files that the branch does not have, or has otherwise."""
        names = [file.name for file in files]
        entries = self._api.get_paths_info(self.repo.id, names, revision=self.repo.revision, repo_type=self.repo.kind)
        arrived = {entry.path: _remote_file(entry) for entry in entries}
        return [file.name for file in files if file.name not in arrived or not self.is_same(file, arrived[file.name])]

    def delete(self, names: Iterable[str]) -> None:
        """Commit that files are removed."""
        from huggingface_hub import CommitOperationDelete

        operations = [CommitOperationDelete(path_in_repo=name) for name in names]
        try:
            self._try(lambda: self._commit(operations, "Remove what is replaced"))
        except ConflictError:
            if self._try(self._list).keys() & {operation.path_in_repo for operation in operations}:
                raise

    def _commit(self, operations: Sequence[Any], message: str) -> None:
        """Commit on top of what was seen, and on nothing else."""
        info = self._api.create_commit(
            self.repo.id,
            operations,
            commit_message=message,
            repo_type=self.repo.kind,
            revision=self.repo.revision,
            parent_commit=self._head or None,
        )
        self._head = info.oid

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"{self.repo}: was changed by somebody else meanwhile; nothing of theirs is lost, run the same command to "
            "go on"
        )

    def _try(self, action: Callable[[], T]) -> T:
        """`retrying`, with what the Hub's library means by its errors, and without the token in any."""

        def act() -> T:
            try:
                return action()
            except RuntimeError as error:  # huggingface_hub's around a failed upload
                raise error.__cause__ or error from None
            except OSError as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status == _NOT_FOUND:
                    raise FileNotFoundError(str(error)) from None
                if status in (_CONFLICT, _PRECONDITION):
                    raise self._conflict() from None
                if _REFUSED.search(str(error)):
                    raise PermissionError(str(error)) from None
                raise

        try:
            return retrying(act, str(self.repo))
        except FracgenError as error:
            if self._token in str(error):
                raise type(error)(str(error).replace(self._token, "***")) from None
            raise


def _remote_file(entry: Any) -> RemoteFile:
    digest = entry.lfs.sha256 if entry.lfs is not None else ""
    return RemoteFile(num_bytes=entry.size, sha256=digest, git_blob=entry.blob_id)
