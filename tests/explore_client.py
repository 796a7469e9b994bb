"""The other side of a server of `fracgen explore`, for tests."""

import contextlib
import json
import re
import struct
import threading
import urllib.parse
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any

import numpy as np

from fracgen.cli.explore import training_augmenter
from fracgen.explore.explorer import Explorer
from fracgen.explore.inputs import Inputs
from fracgen.explore.server import ExploreServer


class ExplorePage:
    """What the page asks of a server, each time over a connection of its own."""

    def __init__(self, address: str, server: Any = None) -> None:
        """address: as the command prints it. server: an `ExploreServer`, where it runs in this process."""
        parts = urllib.parse.urlsplit(address)
        self.port, self.server, self.token, self.cookie = parts.port, server, "", ""
        self.cookie = self.ask("GET", f"/?{parts.query}")[2]["Set-Cookie"].partition(";")[0]
        self.token = re.search('name="fracgen-token" content="(.*?)"', self.ask("GET", "/")[1].decode())[1]

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes, HTTPMessage]:
        """Status, body and headers of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=600)
        with contextlib.closing(connection):
            own = {"X-Fracgen-Token": self.token, "Cookie": self.cookie}
            connection.request(method, path, body, own | {key.replace("_", "-"): text for key, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

    def post(self, path: str, **values: Any) -> Any:
        """JSON; (JSON, pixels (N, H, W) or (N, H, W, 3)); or the bytes of a file."""
        _, body, headers = self.ask("POST", f"/api/{path}", json.dumps(values).encode())
        if headers["Content-Type"] == "application/json":
            return json.loads(body)
        if path in ("input", "sweep.png"):
            return body
        (length,) = struct.unpack_from("<I", body)
        head = json.loads(body[4 : 4 + length])
        shape = (len(head["images"]), head["height"], head["width"], head["channels"])
        pixels = np.frombuffer(body, np.uint8, offset=4 + length).reshape(shape)
        return head, pixels[..., 0] if head["channels"] == 1 else pixels

    def images(self, **values: Any) -> Any:
        """The answer to a request for images."""
        return self.post("images", **values)

    def session(self) -> Any:
        """What the page begins with."""
        return json.loads(self.ask("GET", "/api/session")[1])


@contextlib.contextmanager
def explore(inputs: Inputs, place: Path) -> Iterator[ExplorePage]:
    """A server on a free port, until the block ends."""
    explorer = Explorer(inputs, place, training_augmenter())
    with ExploreServer(explorer, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ExplorePage(server.address, server)
        finally:
            server.shutdown()
            thread.join()
            explorer.close()
