"""A stand-in of the Hugging Face Hub's HTTP interface on loopback, as far as publishing and reading `hf://` use it.

No well-kept one was at hand, so this follows what huggingface_hub sends: repositories with branches of files, commits,
uploads by git-LFS. It has no xet storage (clients must have `HF_HUB_DISABLE_XET`), no pull requests and no users.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests_alone"
_API = re.compile(r"/api/(datasets|models)/([\w.-]+/[\w.-]+)(?:/(\w[\w-]*))?(?:/([^/]+))?(?:/(.*))?")
_RESOLVE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
_BATCH = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch")


@dataclass
class Repo:
    """One repository: of each branch the files, and the number of its commits."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b"*.tar lfs\n"}})
    commits: dict[str, int] = field(default_factory=lambda: {"main": 1})

    def branch(self, revision: str) -> str:
        """The branch that a revision is of: its name, or the sha of its head."""
        return next((name for name in self.branches if self.head(name) == revision), revision)

    def head(self, branch: str) -> str:
        """Of one content another one: branches that begin where another one is have its head."""
        files = [(path, hashlib.sha1(data).hexdigest()) for path, data in sorted(self.branches[branch].items())]
        return hashlib.sha1(f"{self.commits[branch]} {files}".encode(), usedforsecurity=False).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server.

    faults: by a part of "METHOD path", how many requests fail from now on, and how: a status, or "cut": the connection
    is closed when half of the body is read; "lost": what is asked is done, and no answer comes.
    requests: how many of each "METHOD path" came, with a digest in the place of a hash.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.requests: Counter[str] = Counter()
        self.order: list[str] = []
        self.lock = threading.Lock()

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """Of a branch, as in "datasets/me/set"."""
        return {path: data for path, data in self.repos[name].branches[branch].items() if path != ".gitattributes"}

    def fault(self, line: str) -> int | str | None:
        with self.lock:
            self.requests[re.sub(r"[0-9a-f]{64}", "DIGEST", line)] += 1
            for part, kinds in self.faults.items():
                if part in line and kinds:
                    return kinds.pop(0)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are no errors."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *words: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815

    def answer(self) -> None:
        path = urlsplit(self.path).path
        fault = self.server.fault(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length", 0))
        if fault == "cut":
            self.rfile.read(length // 2)
            self.connection.close()
            self.close_connection = True
            return None
        body = self.chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if isinstance(fault, int):
            return self.send(fault, {"error": f"status {fault}"})
        if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid credentials in Authorization header"})
        with self.server.lock:
            status, reply, headers = self.route(path, body)
        if fault == "lost":
            self.connection.close()
            self.close_connection = True
            return None
        return self.send(status, reply, headers)

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().strip(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, status: int, reply: Any, headers: dict[str, str] | None = None) -> None:
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def route(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        """(Status, reply, headers) of a request."""
        server = self.server
        if path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('organization') or 'me'}/{values['name'].rpartition('/')[2]}"
            name = f"{'datasets/' if values.get('type') == 'dataset' else ''}{name}"
            if name in server.repos:
                return 409, {"error": "You already created this repo", "url": f"{server.url}/{name}"}, {}
            if not name.removeprefix("datasets/").startswith("me/"):
                return 403, {"error": "You don't have the rights to create a repo there"}, {}
            server.repos[name] = Repo(private=bool(values.get("private")) or values.get("visibility") == "private")
            return 200, {"url": f"{server.url}/{name}", "name": name}, {}
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            errors = [] if "license: no-such" not in text else [{"message": '"license" must be one of them'}]
            return (400 if errors else 200), {"errors": errors, "warnings": []}, {}
        if path.startswith("/lfs/"):
            digest = path.rpartition("/")[2]
            if hashlib.sha256(body).hexdigest() != digest:
                return 400, {"error": "another content"}, {}
            server.objects[digest] = body
            return 200, {}, {}
        if match := _BATCH.fullmatch(path):
            return 200, {"transfer": "basic", "objects": [self.batch(each) for each in json.loads(body)["objects"]]}, {}
        if match := _RESOLVE.fullmatch(path):
            return self.resolve(f"{match[1] or ''}{match[2]}", unquote(match[3]), unquote(match[4]))
        if match := _API.fullmatch(path):
            name = f"{'datasets/' if match[1] == 'datasets' else ''}{match[2]}"
            if name not in server.repos:
                return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
            return self.api(server.repos[name], name, match[3] or "revision", unquote(match[4] or "main"), body)
        return 404, {"error": f"no {path}"}, {}

    def batch(self, each: dict[str, Any]) -> dict[str, Any]:
        if each["oid"] in self.server.objects:
            return each
        return {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}

    def resolve(self, name: str, branch: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repo = self.server.repos.get(name)
        branch = repo.branch(branch) if repo else branch
        data = repo.branches.get(branch, {}).get(path) if repo else None
        if repo is None or data is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        headers = {"ETag": f'"{entry(path, data)["oid"]}"', "X-Repo-Commit": repo.head(branch)}
        return 200, data, headers

    def api(self, repo: Repo, name: str, action: str, branch: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if action == "branch":
            if branch in repo.branches:
                return 409, {"error": "Reference already exists"}, {}
            first = repo.branch(json.loads(body or b"{}").get("startingPoint", "main"))
            repo.branches[branch], repo.commits[branch] = dict(repo.branches[first]), repo.commits[first]
            return 200, {}, {}
        branch = repo.branch(branch)
        if branch not in repo.branches:
            return 404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"}
        files = repo.branches[branch]
        if action == "revision":
            return 200, {"id": name.removeprefix("datasets/"), "sha": repo.head(branch), "private": repo.private}, {}
        if action == "tree":
            return 200, [entry(path, data) for path, data in files.items()], {}
        if action == "paths-info":
            paths = re.findall(r"paths=([^&]+)", body.decode()) or json.loads(body or b"{}").get("paths", [])
            return 200, [entry(path, files[path]) for path in map(unquote, paths) if path in files], {}
        if action == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if is_large(each["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": entry(each["path"], files[each["path"]])["oid"] if each["path"] in files else None,
                }
                for each in json.loads(body)["files"]
            ]
            return 200, {"files": modes}, {}
        assert action == "commit"
        lines = [json.loads(line) for line in body.splitlines()]
        if (parent := lines[0]["value"].get("parentCommit")) and parent != repo.head(branch):
            return 412, {"error": "A commit has happened since. Please refresh and try again."}, {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            else:
                del files[value["path"]]
            self.server.order.append(f"{line['key']} {value['path']}")
        repo.commits[branch] += 1
        return 200, {"commitUrl": f"{self.server.url}/{name}", "commitOid": repo.head(branch)}, {}


def is_large(path: str) -> bool:
    return path.endswith((".tar", ".safetensors", ".png"))


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the Hub tells of it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    values: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if is_large(path):
        values["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return values
