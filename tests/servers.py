"""Servers on loopback that end with the test: S3 by moto, and plain HTTP that cuts, lies and refuses as it is told."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BUCKET = "bucket"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """An S3-compatible server with an empty bucket, found by the environment as botocore reads it; its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        file_system().mkdir(BUCKET)
        yield endpoint
    server.stop()


def file_system():
    """s3fs with the environment that there is now."""
    import s3fs

    return s3fs.S3FileSystem(skip_instance_cache=True)


def upload(folder: Path, name: str) -> str:
    """Put a folder's files at s3://BUCKET/NAME, which is returned."""
    where = f"s3://{BUCKET}/{name}"
    file_system().put(str(folder), where, recursive=True)
    return where


class FaultyServer(ThreadingHTTPServer):
    """Serves the files of a folder by plain HTTP. faults: by the name of a file, what befalls its next requests.

    A number: that status. "cut": the connection is closed in the middle. "wrong": as many other bytes. "short": half of
    them, and nothing says that there are more. "long": ten times as many. "hang": half of them, and nothing more for
    a second. Anything else: the file. requests: how often
    each name was asked for. queries: of all requests.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.requests: dict[str, int] = defaultdict(int)
        self.queries: set[str] = set()
        self.authorizations: set[str | None] = set()

    def handle_error(self, request, client_address) -> None:
        """Say nothing of clients that are gone."""

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.server_address)


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def log_message(self, *args) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        name = path.rpartition("/")[2]
        self.server.requests[name] += 1
        self.server.queries.add(query)
        self.server.authorizations.add(self.headers.get("Authorization"))
        faults = self.server.faults[name]
        fault = faults.pop(0) if faults else ""
        file = self.server.folder / path.lstrip("/")
        if isinstance(fault, int) or not file.is_file():
            self.send_response(fault or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        bodies = {"wrong": bytes(len(data)), "short": data[: len(data) // 2], "long": data * 10}
        body = bodies.get(fault, data)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", self.date_time_string(file.stat().st_mtime))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault in ("cut", "hang") else body)
        if fault == "hang":
            self.wfile.flush()
            time.sleep(1)
        self.close_connection = True

    do_HEAD = do_GET  # noqa: N815  as the library calls them


@contextlib.contextmanager
def faulty_server(folder: Path) -> Iterator[FaultyServer]:
    """A `FaultyServer` that runs."""
    with FaultyServer(folder) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
