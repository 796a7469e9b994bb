"""Iterated function systems: the type, the sigma-factor and its sampler, category files.

An IFS is N affine maps of the plane, w_j(v) = A_j v + t_j, and the probabilities p_j of choosing them.
Sources: Kataoka et al. (ACCV 2020) for categories and probabilities; Anderson & Farrell (WACV 2022) for sigma.
"""

import csv
import json
import math
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fracgen.arithmetic import add, fused
from fracgen.shards.errors import UsageError
from fracgen.shards.manifest import MANIFEST, load_manifest
from fracgen.shards.settings import read_text

Floats = npt.NDArray[np.float64]

MAX_MAPS = 255
"""The kernels hold a map's number in one byte, and one number more for "none"."""
P_TOLERANCE = 1e-6
_CSV_ORDER = [0, 1, 4, 2, 3, 5]


@dataclass(frozen=True, eq=False)
class System(ABC):
    """An iterated function system of any dimension, checked and read-only.

    SHAPE: of a map. COLUMNS: names of a map's numbers in a category file, followed there by p.
    maps: (N, *SHAPE) float64. p: (N,) float64, the probability of each map.
    """

    SHAPE: ClassVar[tuple[int, ...]]
    COLUMNS: ClassVar[tuple[str, ...]]

    maps: Floats
    p: Floats

    def __post_init__(self) -> None:
        """Raises UsageError where a value is not finite, or p is no distribution (sum within 1e-6 of 1)."""
        maps, p = np.array(self.maps, np.float64), np.array(self.p, np.float64)
        if maps.shape[1:] != self.SHAPE or p.shape != maps.shape[:1]:
            shape = ", ".join(["N", *map(str, self.SHAPE)])
            raise UsageError(f"an IFS has maps ({shape}) and p (N,), not {maps.shape} and {p.shape}")
        if not 1 <= len(maps) <= MAX_MAPS:
            raise UsageError(f"an IFS has 1 to {MAX_MAPS} maps, not {len(maps)}")
        if not (np.isfinite(maps).all() and np.isfinite(p).all()):
            raise UsageError("an IFS's numbers must all be finite")
        if (p < 0).any() or abs(math.fsum(p) - 1) > P_TOLERANCE:
            raise UsageError(f"p must be >= 0 and sum to 1 (within {P_TOLERANCE:g}); it sums to {math.fsum(p):.9g}")
        maps.flags.writeable = p.flags.writeable = False
        object.__setattr__(self, "maps", maps)
        object.__setattr__(self, "p", p)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, System) or self.SHAPE != other.SHAPE:
            return False
        return np.array_equal(self.maps, other.maps) and np.array_equal(self.p, other.p)

    def __hash__(self) -> int:
        return hash((self.maps.tobytes(), self.p.tobytes()))

    def __len__(self) -> int:
        return len(self.maps)

    @property
    @abstractmethod
    def rows(self) -> Floats:
        """The maps as a category file has them: (N, len(COLUMNS)) float64."""

    @classmethod
    @abstractmethod
    def from_rows(cls, rows: Floats, p: Floats) -> Self:
        """The inverse of `rows`, with probabilities."""


SomeSystem = TypeVar("SomeSystem", bound=System)


@dataclass(frozen=True, eq=False)
class IFS(System):
    """An iterated function system of the plane: maps (N, 2, 3), [[a, b, e], [c, d, f]] each."""

    SHAPE: ClassVar[tuple[int, ...]] = (2, 3)
    COLUMNS: ClassVar[tuple[str, ...]] = tuple("abcdef")

    @property
    def rows(self) -> Floats:
        """a, b, c, d, e, f of each map: (N, 6) float64."""
        return rows_from_maps(self.maps)

    @classmethod
    def from_rows(cls, rows: Floats, p: Floats) -> Self:
        """The inverse of `rows`, with probabilities."""
        return cls(maps_from_rows(rows), p)

    @classmethod
    def from_maps(cls, maps: Floats) -> Self:
        """An IFS with the published probabilities |det A_j| / sum.

        Raises UsageError where all determinants are 0.
        """
        return cls(maps, probabilities(maps))

    @property
    def sigma(self) -> float:
        """The sigma-factor of its maps; see `sigma_factor`."""
        return sigma_factor(self.maps)

    def to_plain(self) -> dict[str, Any]:
        """Our JSON form: {"maps": [[[a, b, e], [c, d, f]], ...], "p": [...]}; the floats survive exactly."""
        return {"maps": self.maps.tolist(), "p": self.p.tolist()}

    @classmethod
    def from_plain(cls, values: Any) -> Self:
        """Read our JSON form; p may be left out. Raises UsageError where it is something else."""
        if not isinstance(values, dict) or "maps" not in values or not set(values) <= {"maps", "p"}:
            raise UsageError('an IFS is written {"maps": [[[a, b, e], [c, d, f]], ...], "p": [...]}; p may be left out')
        maps = _numbers(values["maps"], "maps")
        if maps.ndim != 3 or maps.shape[1:] != (2, 3):
            raise UsageError(f"maps must be a list of 2 x 3 matrices, not of shape {maps.shape}")
        if not np.isfinite(maps).all():
            raise UsageError("an IFS's numbers must all be finite")
        return cls(maps, _numbers(values["p"], "p")) if values.get("p") is not None else cls.from_maps(maps)


def probabilities(maps: Floats) -> Floats:
    """p_j = |a d - b c| / sum, (N,) float64, summed one after the other in map order, as the published code sums."""
    determinants = [abs(a * d - b * c) for (a, b, _), (c, d, _) in maps.tolist()]
    total = add(determinants)
    if not 0 < total < math.inf:
        raise UsageError("the maps' determinants sum to 0 (or overflow), so p cannot be computed from them; give p")
    return np.array([determinant / total for determinant in determinants])


def sigma_factor(maps: Floats) -> float:
    """sigma = sum_j (s_j1 + 2 s_j2) over the singular values s_j1 >= s_j2 of each A_j (Anderson & Farrell, eq. 3)."""
    with np.errstate(over="ignore"):
        values = np.linalg.svd(maps[:, :, :2], compute_uv=False)
        return float(np.sum(values @ (1.0, 2.0)))


def sample_maps(sigma: float, num_maps: int, rng: np.random.Generator) -> Floats:
    """Draw the maps of an IFS whose sigma-factor is exactly `sigma`: (num_maps, 2, 3) float64.

    Singular values come map by map from the widest interval that leaves the remaining maps a solution, all in [0, 1];
    A = R(u) diag(s1, s2) R(v) diag(+-1, +-1) with angles uniform in [-pi, pi]; t uniform in [-1, 1]^2
    (Anderson & Farrell, section 3). Raises UsageError where sigma is outside (0, 3 num_maps].
    """
    check_sigma(sigma, num_maps)
    maps = np.empty((num_maps, 2, 3))
    remaining = sigma
    for j in range(num_maps):
        s1, s2, remaining = _draw_singular_values(remaining, num_maps - 1 - j, rng)
        u, v = math.pi * (2 * rng.random(2) - 1)
        signs = np.where(rng.random(2) < 0.5, -1.0, 1.0)
        maps[j, :, :2] = _turned(u, s1, s2, v) * signs
        maps[j, :, 2] = 2 * rng.random(2) - 1
    return maps


def check_sigma(sigma: float, num_maps: int) -> None:
    """Raises UsageError where no num_maps maps with singular values in [0, 1] have this sigma-factor."""
    if not 0 < sigma <= 3 * num_maps:
        raise UsageError(f"sigma {sigma}: must be in (0, {3 * num_maps}], 3 for each of {num_maps} maps")


def _draw_singular_values(rest: float, maps_after: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """One map's s1 >= s2, and what is left of `rest` for the maps after it, each of which takes 0 to 3."""
    a, b = rng.random(2).tolist()
    if maps_after == 0:
        low, high = max(0.0, (rest - 1) / 2), min(1.0, rest / 3)
        s2 = min(low + (high - low) * b, high)
        return min(max(rest - 2 * s2, s2), 1.0), s2, 0.0
    least = rest - 3 * maps_after
    low, high = max(0.0, least / 3), min(1.0, rest)
    s1 = low + (high - low) * a
    low, high = max(0.0, (least - s1) / 2), min(s1, (rest - s1) / 2)
    s2 = min(low + (high - low) * b, s1)
    return s1, s2, max(rest - s1 - 2 * s2, 0.0)


def _turned(u: float, s1: float, s2: float, v: float) -> Floats:
    """R(u) diag(s1, s2) R(v), (2, 2) float64: not by numpy, whose last bits follow the processor."""
    (cos_u, sin_u), (cos_v, sin_v) = ((math.cos(angle), math.sin(angle)) for angle in (u, v))
    scaled, right = [[cos_u * s1, -sin_u * s2], [sin_u * s1, cos_u * s2]], [[cos_v, -sin_v], [sin_v, cos_v]]
    return np.array([[fused(row[1], right[1][k], row[0] * right[0][k]) for k in range(2)] for row in scaled])


def load_ifs(path: Path | str) -> IFS:
    """Read a category CSV (a, b, c, d, e, f, p a row; p is used as it stands), our JSON, or a data set's base fractal.

    The last is a rendered folder or its `dataset.json`. Raises UsageError with the file, the line and the mend, and
    DataError for a data set that is unfinished or damaged.
    """
    content: Any
    parse: Callable[[Any], IFS]
    path = Path(path)
    if path.is_dir() or path.name == MANIFEST:
        content, parse = load_manifest(path if path.is_dir() else path.parent).recipe, _of_recipe
    else:
        content, parse = read_text(path), _parse_json if path.suffix.lower() == ".json" else _parse_csv
    try:
        return parse(content)
    except (UsageError, csv.Error) as error:
        raise UsageError(f"{path}: {error}") from None


def _parse_csv(text: str) -> IFS:
    return parse_system(IFS, text)


def parse_system(kind: type[SomeSystem], text: str) -> SomeSystem:
    """The system that a category file holds: a row of its COLUMNS and p a map. Raises UsageError with the line."""
    rows, columns = [], (*kind.COLUMNS, "p")
    for number, fields in enumerate(csv.reader(text.splitlines()), start=1):
        if not any(field.strip() for field in fields):
            continue
        if mark := re.search(r"[;\t]", ",".join(fields)):
            raise UsageError(
                f"line {number} divides its columns by {mark[0]!r}; write them as 0.5,0.1,...: "
                "commas between columns, points in numbers"
            )
        if len(fields) != len(columns):
            expected = f"a category has {len(columns)}: {', '.join(columns)}"
            raise UsageError(f"line {number} has {len(fields)} columns; {expected}")
        try:
            row = [float(field) for field in fields]
        except ValueError as error:
            raise UsageError(f"line {number}: {error}; a category is numbers only, without a header") from None
        if not all(map(math.isfinite, row)):
            raise UsageError(f"line {number}: NaN or infinity; every number must be finite")
        rows.append(row)
    if not rows:
        raise UsageError(f"empty; a category has one row of {', '.join(columns)} per map")
    table = np.array(rows)
    return kind.from_rows(table[:, :-1], table[:, -1])


def maps_from_rows(rows: Floats) -> Floats:
    """(N, 6) rows a, b, c, d, e, f of a category file to (N, 2, 3) maps [[a, b, e], [c, d, f]]."""
    return rows[:, _CSV_ORDER].reshape(-1, 2, 3)


def rows_from_maps(maps: Floats) -> Floats:
    """The inverse of `maps_from_rows`: (N, 2, 3) to (N, 6)."""
    return maps.reshape(-1, 6)[:, np.argsort(_CSV_ORDER)]


def _parse_json(text: str) -> IFS:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not JSON ({error})") from None
    return _of_recipe(values["recipe"]) if isinstance(values, dict) and "recipe" in values else IFS.from_plain(values)


def _of_recipe(recipe: Any) -> IFS:
    if not isinstance(recipe, Mapping) or recipe.get("ifs") is None:
        raise UsageError("its recipe holds no IFS")
    if isinstance(recipe["ifs"], Mapping) and "file" in recipe["ifs"]:
        raise UsageError("its recipe holds several base fractals, where one is to be read; give a CSV or JSON of one")
    return IFS.from_plain(recipe["ifs"])


def _numbers(values: Any, name: str) -> Floats:
    def check(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                check(item)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} holds {reprlib.repr(value)}; it must hold numbers only")

    try:
        check(values)
        return np.array(values, np.float64)
    except (ValueError, OverflowError, RecursionError):
        raise UsageError(f"{name} is ragged or too large; give lists of equal lengths") from None
