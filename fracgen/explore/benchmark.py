"""Times of `fracgen explore` on this machine, as its page sees them: over HTTP, from the request to the last byte."""

import contextlib
import http.client
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fracgen.benchmark import Row, Table, machine_caption
from fracgen.explore.explorer import Explorer
from fracgen.explore.inputs import read_source
from fracgen.explore.server import TOKEN_HEADER, ExploreServer
from fracgen.registry import from_dict
from fracgen.shards.errors import DataError

SIZE, GRID = 256, 16
_GRID, _BASE = f"grid of {GRID}", "base fractal"
_STARTS = 5


class _Page:
    """What the page asks, over one connection that stays open."""

    def __init__(self, address: str) -> None:
        """address: as the command prints it."""
        parts = urllib.parse.urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        self._token = parts.query.removeprefix("token=")

    def ask(self, path: str, **values: Any) -> bytes:
        """The body of an answer. Raises DataError where the server refuses."""
        self._connection.request("POST", f"/api/{path}", json.dumps(values), {TOKEN_HEADER: self._token})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise DataError(f"{path}: {body.decode()}")
        return body

    def session(self) -> Any:
        """What the page begins with."""
        self._connection.request("GET", "/api/session", headers={TOKEN_HEADER: self._token})
        return json.loads(self._connection.getresponse().read())

    def resolve(self, **values: Any) -> Any:
        """The answer to a recipe."""
        return json.loads(self.ask("resolve", recipe=values))


def measure(*, repeats: int, cores: int) -> Table:
    """Time what is asked while a slider is dragged, each time of another Delta or sigma: wall time, medians.

    Images are of the published points, 256 pixels wide. In turn with each grid, the same images are rendered by one
    thread, as the measure of what drawing takes. "first picture": from the start of the command in a process of its own
    until its base fractal is there at its size, kernels compiled before.
    """
    with tempfile.TemporaryDirectory() as scratch, _serving(Path(scratch)) as page:
        base = page.resolve(size=SIZE)["recipe"]
        recipes = [{**base, "delta": 0.05 + 0.1 * step / repeats} for step in range(repeats)]
        grid, grids, rendered, used = list(range(GRID)), list[float](), list[float](), list[float]()
        for recipe in recipes:
            before = time.process_time()
            grids.append(_seconds(page.ask, "images", recipe=recipe, indices=grid))
            used.append(time.process_time() - before)
            built = from_dict(recipe)
            rendered.append(_seconds(lambda built=built: list(built.render(grid))))
        sigmas = [3.4 + step / repeats for step in range(repeats)]
        times = {
            _GRID: grids,
            f"{_GRID}, CPU time": used,
            "the same by one thread, without a server": rendered,
            _BASE: [_seconds(page.ask, "images", recipe=recipe, indices=[-1]) for recipe in recipes],
            "resolve, Delta moves, base locked": [_seconds(page.resolve, **recipe) for recipe in recipes],
            "resolve, sigma moves, base searched": [_seconds(page.resolve, size=SIZE, sigma=sigma) for sigma in sigmas],
            "draft, sigma moves": [
                _seconds(page.ask, "resolve", recipe={"size": SIZE, "sigma": sigma}, base=0, draft=True)
                for sigma in sigmas
            ],
        }
        starts = [_first_picture(Path(scratch)) for _ in range(_STARTS + 1)][1:]
    rows = [Row(name, statistics.median(seconds) * 1e3) for name, seconds in times.items()]
    rows += [Row(f"{name}, 19 in 20 take less", _late(times[name]) * 1e3) for name in (_GRID, _BASE)]
    rows += [Row("first picture after the command", statistics.median(wall for wall, _ in starts) * 1e3)]
    rows += [Row("first picture after the command, CPU time", statistics.median(cpu for _, cpu in starts) * 1e3)]
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return Table(
        title=f"fracgen explore, {SIZE} px, {base['points']:,} points; wall time of {repeats} requests over HTTP",
        caption=f"{machine_caption(cores)}; load of 1, 5, 15 minutes: {load}",
        rows=tuple(rows),
        unit="request",
    )


@contextlib.contextmanager
def _serving(place: Path) -> Iterator[_Page]:
    explorer = Explorer(read_source(None, []), place)
    with ExploreServer(explorer, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield _Page(server.address)
        finally:
            server.shutdown()
            thread.join()
            explorer.close()


def _first_picture(place: Path) -> tuple[float, float]:
    """Seconds from the start of the command until the base fractal of its recipe is there; and of CPU until its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    command = [sys.executable, "-m", "fracgen", "explore", "--no-open"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode()
            page = _Page(address.strip())
            recipe = page.resolve(**page.session()["recipe"])["recipe"]
            picture = page.ask("images", recipe=recipe, indices=[-1])
            seconds = time.perf_counter() - started
        finally:
            process.terminate()
    (length,) = struct.unpack_from("<I", picture)
    if len(picture) != 4 + length + recipe["size"] ** 2:
        raise DataError("the first picture is not what was asked for")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _seconds(work: Callable[..., object], *arguments: Any, **options: Any) -> float:
    started = time.perf_counter()
    work(*arguments, **options)
    return time.perf_counter() - started


def _late(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]
