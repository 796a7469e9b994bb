"""The revision of the source of fracgen that runs, where git or pip knows it."""

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

_HERE = Path(__file__).resolve()


def source_revision() -> str:
    """The commit (hex) of the clone that runs, or that pip installed from; "" where neither is known.

    It ends in "-dirty" where tracked files of the clone were changed since. Asked when a run begins, as the files may
    change while it goes on.
    """
    return _of_clone(_HERE.parents[2]) or _of_installation()


def _of_clone(root: Path) -> str:
    if not (root / ".git").exists():  # or git would answer of a repository that an environment lies in
        return ""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    argv = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        ended = subprocess.run(
            argv, env={**ours, "GIT_OPTIONAL_LOCKS": "0"}, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):  # no git, no commit, a clone of another user
        return ""
    return ended.stdout.strip()


def _of_installation() -> str:
    """What pip has written down of an installation from a version control system."""
    try:
        installed = metadata.distribution("fracgen")
        if Path(str(installed.locate_file("fracgen"))).resolve() not in _HERE.parents:  # of another than what runs
            return ""
        return str(json.loads(installed.read_text("direct_url.json") or "{}")["vcs_info"]["commit_id"])
    except (metadata.PackageNotFoundError, OSError, ValueError, LookupError, TypeError):
        return ""
