"""OpenCV: imported where it is used, as only photographs need it."""

from importlib import metadata
from typing import Any

from fracgen.shards.errors import UsageError

_DISTRIBUTIONS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


def opencv() -> Any:
    """The module cv2. Raises UsageError where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            f"photographs need OpenCV, which cannot be imported ({error}): pip install 'fracgen[photo]'"
        ) from None
    return cv2


def opencv_version() -> dict[str, str]:
    """The distribution that brings cv2, and its version; OpenCV's own, where it came otherwise."""
    version = opencv().__version__
    for name in _DISTRIBUTIONS:
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.startswith(version):  # of several, the one that was written last is imported
            return {name: installed}
    return {"opencv": version}
