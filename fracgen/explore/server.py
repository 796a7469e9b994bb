"""The server of `fracgen explore`: loopback only, for its own page only, of bounded requests.

Another page in the same browser can send requests to any address, so each must name this host, come from this page
where it says whence it comes, and bear the token that stands in this page. Other users of this machine can reach the
server too, so the page itself is for who has the address that was printed, which holds the token; a cookie keeps it.
They see the command line of a browser that is started with an address: that one gives the cookie once, and no token.
"""

import contextlib
import errno
import hmac
import secrets
import sys
import threading
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any

from fracgen.explore.explorer import Explorer
from fracgen.explore.messages import Reply
from fracgen.explore.turns import DroppedError
from fracgen.shards.errors import FracgenError, UsageError, one_line

HOST = "127.0.0.1"
DEFAULT_PORT = 8642
"""Where it is free: a link that restores a state then works after the next start, once its address was opened."""
MAX_BODY = 1 << 20
MAX_CONNECTIONS = 64
IDLE_SECONDS = 60
"""After which a connection that sends nothing, or half a request, is closed."""
TOKEN_HEADER = "X-Fracgen-Token"
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ExploreServer(ThreadingHTTPServer):
    """Serves one session on the loopback interface. `address` is what a user opens."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, explorer: Explorer, port: int | None = None) -> None:
        """port: none takes the usual one, or any that is free. Raises UsageError where the port is taken."""
        self.explorer, self.token = explorer, secrets.token_urlsafe(24)
        self.files = page_files(self.token)
        self.page = self.files.pop("index.html")
        self._ticket, self._ticket_lock = secrets.token_urlsafe(24), threading.Lock()
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((HOST, DEFAULT_PORT if port is None else port), Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            if port is not None:
                raise UsageError(f"--port {port}: {error.strerror}; give another, or leave it out") from None
            super().__init__((HOST, 0), Handler)

    def server_bind(self) -> None:
        """Bind without asking a name server for this host's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def address(self) -> str:
        """The page's address, with the token."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    @property
    def address_once(self) -> str:
        """The page's address as it may stand in a command line: it opens the page for who comes first."""
        return f"http://{HOST}:{self.server_port}/?once={self._ticket}"

    def take_ticket(self, sent: str) -> bool:
        """Whether a request has the ticket of `address_once`, which nobody has used before."""
        with self._ticket_lock:
            if not self._ticket or not _is_same(sent, self._ticket):
                return False
            self._ticket = ""
            return True

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a request may call this host."""
        return (f"{HOST}:{self.server_port}", f"localhost:{self.server_port}")

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection by a thread of its own; close it where there are too many."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # no thread was to be had; Ctrl-C may come after the thread that releases has begun
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection until it ends."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            print(f"fracgen: {one_line(f'{type(error).__name__}: {error}')}", file=sys.stderr)


def page_files(token: str) -> dict[str, tuple[str, bytes]]:
    """The page's files by name: media type and bytes. token: stands in the page.

    Raises UsageError where they are missing.
    """
    files, folder = dict[str, tuple[str, bytes]](), resources.files("fracgen.explore") / "page"
    if not (folder / "index.html").is_file():
        raise UsageError("the files of the page are missing; install fracgen again")
    for file in folder.iterdir():
        media_type = MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None and file.is_file():
            files[file.name] = (media_type, file.read_bytes())
    media_type, page = files["index.html"]
    files["index.html"] = (media_type, page.replace(b"{{token}}", token.encode()))
    return files


def _is_same(sent: str, secret: str) -> bool:
    return hmac.compare_digest(sent.encode("utf-8", "replace"), secret.encode())


def _refusal(message: str) -> Reply:
    return Reply.of_json({"error": one_line(message)})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: ExploreServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """The page, its files, and the session."""
        path, _, query = self.path.partition("?")
        if path == "/api/session":
            self._answer_checked(lambda: self.server.explorer.session())
            return
        name = path.removeprefix("/page/") if path.startswith("/page/") else ""
        if self._is_foreign():
            self._fail(HTTPStatus.FORBIDDEN, "this server answers to its own page only")
        elif path == "/":
            self._send_page(dict(urllib.parse.parse_qsl(query)))
        elif name in self.server.files:
            self._send_file(self.server.files[name])
        else:
            self._fail(HTTPStatus.NOT_FOUND, "no such page")

    def _send_page(self, query: Mapping[str, str]) -> None:
        """The page, whose address then holds no token: what is copied from there gives nothing away."""
        cookie, once = f"fracgen-{self.server.server_port}", query.get("once", "")
        if self._is_token(query.get("token", "")) or self.server.take_ticket(once):
            headers = {
                "Location": "/",
                "Set-Cookie": f"{cookie}={self.server.token}; HttpOnly; SameSite=Lax; Path=/",
            }
            self._send(HTTPStatus.SEE_OTHER, Reply(b"", "text/plain"), headers)
            return
        cookies = ";".join(self.headers.get_all("Cookie", [])).split(";")  # other programs' too, in whatever form
        kept = [value for name, _, value in (each.strip().partition("=") for each in cookies) if name == cookie]
        if any(map(self._is_token, kept)):
            self._send_file(self.server.page)
        else:
            line = "open the whole address that `fracgen explore` printed: it has a token"
            used = "this address was opened before, by you or by another user of this machine, and works once; "
            self._fail(HTTPStatus.FORBIDDEN, (used if once else "") + line)

    def _send_file(self, file: tuple[str, bytes]) -> None:
        media_type, data = file
        self._send(HTTPStatus.OK, Reply(data, media_type))

    def do_POST(self) -> None:
        """A request of the page."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._fail(HTTPStatus.LENGTH_REQUIRED, "a request has a body of stated length")
            return
        if len(length) > 8 or int(length) > MAX_BODY:
            self.close_connection = True
            self._fail(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MAX_BODY >> 20} MiB")
            return
        body = self.rfile.read(int(length))
        route = self.server.explorer.routes.get(self.path.removeprefix("/api/")) if self.path[:5] == "/api/" else None
        if route is None:
            self._fail(HTTPStatus.NOT_FOUND, "no such request")
            return
        self._answer_checked(lambda: route(body))

    def _answer_checked(self, work: Any) -> None:
        if self._is_foreign() or not self._is_token(self.headers.get(TOKEN_HEADER, "")):
            line = "this server answers to its own page only; open the address that `fracgen explore` printed"
            self._fail(HTTPStatus.FORBIDDEN, line)
            return
        try:
            status, reply = HTTPStatus.OK, work()
        except DroppedError:
            status, reply = HTTPStatus.CONFLICT, Reply.of_json({"dropped": True})
        except FracgenError as error:
            status, reply = HTTPStatus.BAD_REQUEST, _refusal(str(error))
        except MemoryError:
            line = "out of memory; lower size, points or the number of images"
            status, reply = HTTPStatus.INSUFFICIENT_STORAGE, _refusal(line)
        except Exception as error:  # the server lives on; the line is a disk's or a bug's
            line = f"{self.path}: {type(error).__name__}: {error}"
            print(f"fracgen: {one_line(line)}", file=sys.stderr)
            status, reply = HTTPStatus.INTERNAL_SERVER_ERROR, _refusal(line)
        self._send(status, reply)

    def _is_token(self, sent: str) -> bool:
        return _is_same(sent, self.server.token)

    def _is_foreign(self) -> bool:
        """Whether a request may come from elsewhere than this page."""
        hosts, origin = self.server.hosts, self.headers.get("Origin")
        if self.headers.get("Host") not in hosts or len(self.headers.get_all("Host", [])) != 1:
            return True
        return origin is not None and origin not in [f"http://{host}" for host in hosts]

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self._send(status, _refusal(message))

    def _send(self, status: HTTPStatus, reply: Reply, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.media_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no HTTP request, in one line as all errors."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self._fail(HTTPStatus(code), message or HTTPStatus(code).phrase)

    def version_string(self) -> str:
        """Names no version: a page elsewhere learns nothing from it."""
        return "fracgen"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  http.server's name
        """Say nothing of each request."""
