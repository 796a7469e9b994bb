"""Versions of the packages that something was made with."""

from importlib import metadata


def version_of(package: str) -> str:
    """The version of an installed package; "unknown" of a clone that is only on Python's path."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
