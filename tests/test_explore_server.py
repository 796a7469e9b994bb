"""The walls of the server of `fracgen explore`: who may ask, what, how much; newest first; its end."""

import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import SMALL
from explore_client import ExplorePage, explore

from fracgen.cli.app import run
from fracgen.explore import explorer as explorer_module
from fracgen.explore import server as serving
from fracgen.explore.inputs import read_source
from fracgen.explore.turns import DroppedError, Turns
from fracgen.shards.errors import UsageError
from fracgen.shards.plan import load_plan, read_record


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with explore(read_source(None, []), tmp_path_factory.mktemp("sets")) as page:
        yield page


def error(answer) -> str:
    """The line of an answer that refuses."""
    line = json.loads(answer[1])["error"]
    assert "\n" not in line and "Traceback" not in line
    return line


# ---- who may ask -----------------------------------------------------------------------------------------------------


def test_the_page_and_its_files(page):
    status, body, headers = page.ask("GET", "/")
    assert status == 200 and page.server.token.encode() in body and b"{{token}}" not in body
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    for name in page.server.files:
        assert page.ask("GET", f"/page/{name}")[0] == 200
    assert page.ask("GET", "/page/explore.css")[2]["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/%2e%2e/server.py",
        "/page//etc/passwd",
        "/page/",
        "/etc/passwd",
        "/page/x.js",
        "/api/",
    ],
)
def test_no_path_is_read_from_a_request(path, page):
    assert page.ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1"},
        {"X_Fracgen_Token": ""},
        {"X_Fracgen_Token": "guess"},
        {"X_Fracgen_Token": "\u00e4\u00f6"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/session"), ("POST", "/api/resolve"), ("POST", "/api/render")]
)
def test_only_the_own_page_may_ask(method, path, headers, page):
    answer = page.ask(method, path, b"{}", **headers)
    assert answer[0] == 403 and "its own page" in error(answer)


def test_the_page_itself_is_for_its_own_host(page):
    assert page.ask("GET", "/", Host="evil.example")[0] == 403
    port = page.server.server_port
    assert page.ask("GET", "/", Host=f"localhost:{port}", Origin=f"http://localhost:{port}")[0] == 200


def test_the_page_is_for_who_has_the_printed_address(page):
    printed, cookie = page.server.address, page.cookie
    for path in ("/", "/?token=", "/?token=guess", "/?token=%C3%A4", "/?" + "token=x&" * 9, "/page/index.html"):
        for name in ("", "fracgen-1=x", cookie.replace("=", "-"), f"{cookie}x", "\u00e4", ";;="):
            status, body, headers = page.ask("GET", path, Cookie=name)
            assert status == (404 if "index" in path else 403)
            assert page.token.encode() not in body and "Set-Cookie" not in headers
    assert error(page.ask("GET", "/", Cookie="")).startswith("open the whole address that `fracgen explore` printed")
    status, body, headers = page.ask("GET", f"/?{printed.partition('/?')[2]}", Cookie="")
    assert (status, body, headers["Location"]) == (303, b"", "/")
    assert headers["Set-Cookie"] == f"{cookie}; HttpOnly; SameSite=Lax; Path=/"
    for other in ("other=1", 'json={"x": 1}', "path=/", "name", "a b=1", "\u00e4=\u00e4", 'open="1', ""):
        assert page.ask("GET", "/", Cookie=f"{other}; {cookie}")[0] == 200, "of other programs on this host"
    assert page.ask("GET", "/api/session", X_Fracgen_Token="")[0] == 403, (
        "a cookie alone is what any page's request has"
    )


def test_the_address_that_a_browser_is_started_with_works_once(tmp_path):
    with explore(read_source(None, []), tmp_path) as page:
        path = page.server.address_once.rpartition("/")[2]
        assert page.server.address_once.startswith(page.server.address.partition("?")[0]) and page.token not in path
        for guess in ("?once=", "?once=guess", f"?token={path.partition('=')[2]}", f"{path}x"):
            assert page.ask("GET", f"/{guess}", Cookie="")[0] == 403
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(page.ask("GET", f"/{path}", Cookie=""))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answer[0] for answer in answers) == [303, *[403] * 7]
        for status, body, headers in answers:
            assert page.token.encode() not in body and (headers["Set-Cookie"] or "").startswith(
                page.cookie if status == 303 else ""
            )
            assert status == 303 or "was opened before" in json.loads(body)["error"]
        assert page.ask("GET", f"/{path}")[0] == 200, "its own browser may come again"
        assert page.ask("GET", "/?once=", Cookie="")[0] == 403


def test_it_listens_on_loopback_only(page):
    assert page.server.socket.getsockname()[0] == "127.0.0.1"


# ---- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("resolve", b"", "recipe is missing"),
        ("resolve", b"{", "not JSON"),
        ("resolve", b"[]", "must be a mapping"),
        ("resolve", b'{"recipe": 3}', "must be a mapping"),
        ("resolve", b"[" * 100_000, "not JSON"),
        ("resolve", b'{"recipe": {"sigma": NaN}}', "NaN is no number"),
        ("resolve", b'{"recipe": {"sigma": 1e999}}', "sigma inf"),
        ("resolve", b'{"recipe": {"size": ' + b"9" * 5000 + b"}}", "not JSON"),
        ("resolve", b'{"recipe": {"recipe": "1p-fract"}}', "did you mean"),
        ("resolve", b'{"recipe": {"sigmaa": 3}}', "did you mean 'sigma'"),
        ("resolve", b'{"recipe": {"sigma": 9}}', "sigma 9.0: must be in (0, 6]"),
        ("resolve", b'{"recipe": {"size": 4096}}', "size 4096: the page draws up to 2048"),
        ("resolve", b'{"recipe": {"points": 10000000}}', "the page draws up to 2e+06"),
        ("resolve", b'{"recipe": {"seed": 9007199254740993}}', "seed 9007199254740993: the page draws up to 9.0"),
        ("resolve", b'{"recipe": {"pad": 400}}', "pad 400: must be"),
        ("resolve", b'{"recipe": {"ifs": {"maps": []}}}', "maps"),
        ("resolve", b'{"recipe": {"ifs": "/etc/passwd"}}', "an IFS is written"),
        ("resolve", b'{"recipe": {"recipe": "noise"}, "step": 1}', "no base fractal"),
        ("resolve", b'{"recipe": {}, "lock": true}', "unknown key 'lock'"),
        ("images", b'{"recipe": {}, "indices": []}', "0 images"),
        ("images", b'{"recipe": {}, "indices": [%s]}' % b",".join([b"0"] * 65), "65 images"),
        (
            "images",
            b'{"recipe": {"size": 2048, "color": "color"}, "indices": [%s]}' % b",".join([b"0"] * 20),
            "at a time",
        ),
        ("images", b'{"recipe": {}, "indices": ["0"]}', "indices"),
        ("images", b'{"recipe": {}, "indices": [-2]}', "must be"),
        ("augmented", b'{"indices": [0]}', "was given no folder"),
        ("folder", b"{}", "was given no folder"),
        ("folder/images", b'{"numbers": [0]}', "was given no folder"),
        ("input", b'{"name": "/etc/passwd"}', "no input"),
        ("sweep", b'{"recipe": {}, "sweep": {"delta": "x"}}', "delta 'x'"),
    ],
)
def test_bad_requests_are_a_line(path, body, message, page):
    answer = page.ask("POST", f"/api/{path}", body)
    assert answer[0] == 400 and message in error(answer)


def test_an_index_that_is_none_is_black_with_the_reason(page):
    recipe = page.post("resolve", recipe=SMALL)["recipe"]
    head, images = page.images(recipe=recipe, indices=[23, 24])
    assert "error" not in head["images"][0] and images[0].any()
    assert head["images"][1]["error"] == "index 24: there are images 0 to 23" and not images[1].any()


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content_Length": str(2**21)}, 413), ({"Content_Length": "x"}, 411), ({"Transfer_Encoding": "chunked"}, 411)],
)
def test_bodies_are_bounded(headers, status, page):
    assert page.ask("POST", "/api/resolve", b"", **headers)[0] == status


def test_other_methods_and_rubbish(page):
    assert page.ask("PUT", "/api/resolve", b"{}")[0] == 501
    assert page.ask("POST", "/api/other", b"{}")[0] == 404
    with socket.create_connection(("127.0.0.1", page.server.server_port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01 rubbish\r\n\r\n")
        assert b"Bad HTTP/0.9 request" in connection.recv(1000)


def test_half_a_request_does_not_hold_the_server(page, monkeypatch):
    monkeypatch.setattr(serving.Handler, "timeout", 0.3)
    with socket.create_connection(("127.0.0.1", page.server.server_port), timeout=10) as connection:
        connection.sendall(b"POST /api/resolve HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
        assert page.ask("GET", "/")[0] == 200, "others are served meanwhile"
        while connection.recv(1000):
            pass  # it is closed by the server


def test_too_many_connections_are_closed(monkeypatch, tmp_path):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)
    with explore(read_source(None, []), tmp_path) as page:
        address = ("127.0.0.1", page.server.server_port)
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                connection = stack.enter_context(socket.create_connection(address, timeout=30))
                connection.sendall(f"GET /none HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode())
                assert connection.recv(15) == b"HTTP/1.1 404 No", "it is served, and stays open"
            third = stack.enter_context(socket.create_connection(address, timeout=30))
            assert third.recv(10) == b""
        for _ in range(200):  # those that end make room
            with contextlib.suppress(OSError):
                if page.ask("GET", "/")[0] == 200:
                    break
            time.sleep(0.05)
        else:
            raise AssertionError("no room is made")


def test_requests_wait_for_those_at_work(page):
    """Four are worked on at a time; of those that wait, an older one is given up for a newer one."""
    explorer, answers = page.server.explorer, {}

    def ask(turn):
        body = json.dumps({"recipe": SMALL, "client": "b", "channel": "resolve", "turn": turn}).encode()
        answers[turn] = page.ask("POST", "/api/resolve", body)[0]

    with contextlib.ExitStack() as stack:
        for _ in range(explorer_module.MAX_AT_WORK):
            explorer._at_work.acquire()
            stack.callback(explorer._at_work.release)
        threads = [threading.Thread(target=ask, args=[turn]) for turn in (1, 2)]
        threads[0].start()
        time.sleep(0.2)
        threads[1].start()
        threads[0].join(30)
        assert answers == {1: 409}
    threads[1].join(30)
    assert answers[2] == 200


@pytest.mark.parametrize(
    "failure", [ZeroDivisionError("two\nlines"), PermissionError(errno.EACCES, "Permission denied")]
)
def test_a_bug_is_a_line_and_the_server_lives_on(page, monkeypatch, capsys, failure):
    """So is a file that cannot be read: it is no browser that went away."""

    def fail(body):
        raise failure

    monkeypatch.setattr(page.server.explorer, "routes", {"resolve": fail})
    answer = page.ask("POST", "/api/resolve", b"{}")
    line = f"{type(failure).__name__}: {failure}".replace("\n", " ")
    assert answer[0] == 500 and error(answer) == f"/api/resolve: {line}"
    assert page.ask("GET", "/")[0] == 200 and "Traceback" not in capsys.readouterr().err


# ---- the newest request ----------------------------------------------------------------------------------------------


def test_turns():
    turns = Turns()
    first, other = turns.take("page", "grid", 1), turns.take("page", "base", 1)
    second = turns.take("page", "grid", 2)
    with pytest.raises(DroppedError):
        first.check()
    with pytest.raises(DroppedError):
        turns.take("page", "grid", 1)
    second.check()
    other.check()
    turns.take("another page", "grid", 1).check()
    for number in range(1000):
        turns.take("many", str(number), number)
    assert len(turns._newest) <= 256


def test_an_older_request_is_dropped_in_the_midst(page):
    """A search that would take 8 seconds ends when the next request comes."""
    answers = []
    hopeless = {"recipe": {"sigma": 3.5, "delta": 30.0}, "client": "a", "channel": "resolve", "turn": 1}
    body = json.dumps(hopeless).encode()
    thread = threading.Thread(target=lambda: answers.append(page.ask("POST", "/api/resolve", body)))
    thread.start()
    time.sleep(0.3)
    newer = page.post("resolve", recipe=SMALL, client="a", channel="resolve", turn=2)
    thread.join(5)
    assert newer["passes"] and answers[0][0] == 409 and json.loads(answers[0][1]) == {"dropped": True}
    assert page.ask("POST", "/api/resolve", body)[0] == 409


# ---- the command -----------------------------------------------------------------------------------------------------


def start(*arguments: str, cwd: Path, browser: str = "") -> tuple[subprocess.Popen[str], str]:
    """The command in a process of its own, and the address that it prints. browser: which it opens that in."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fracgen", "explore", *([] if browser else ["--no-open"]), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "DISPLAY": ":0", "BROWSER": browser},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    return process, process.stdout.readline().strip()


def test_ctrl_c_ends_it_with_a_line_and_two_have_two_ports(tmp_path):
    started = [start(cwd=tmp_path) for _ in range(2)]
    assert started[0][1].startswith("http://127.0.0.1:") and started[0][1] != started[1][1]
    for process, _ in started:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0 and out == ""
        assert err.splitlines() == ["fracgen: Ctrl-C ends it", "fracgen: ended"]


def test_a_browser_is_started_without_the_token(tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/.words && mv {tmp_path}/.words {tmp_path}/words\n')
    browser.chmod(0o755)
    process, address = start(cwd=tmp_path, browser=str(browser))
    words = tmp_path / "words"
    for _ in range(600):
        if words.exists():
            break
        time.sleep(0.05)
    started_with = words.read_text().strip()
    page = ExplorePage(started_with)
    assert page.session()["recipe"] and page.token in address and page.token not in started_with
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_ctrl_c_is_not_lost_while_a_connection_is_handed_to_its_thread(page, monkeypatch):
    def interrupted(server, request, address):
        server.process_request_thread(request, address)  # which has ended by then
        raise KeyboardInterrupt

    monkeypatch.setattr(serving.ThreadingHTTPServer, "process_request", interrupted)
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(KeyboardInterrupt):
        page.server.process_request(ours, ("127.0.0.1", 1))


def test_ctrl_c_keeps_what_was_rendered(tmp_path):
    process, address = start("--out", str(tmp_path / "sets"), cwd=tmp_path)
    page = ExplorePage(address)
    values = {**SMALL, "classes": 100_000}
    folder = page.post("render", recipe=values)["folder"]
    while not page.post("render/status")["done"]:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"fracgen: ended; finished shards are kept in {folder}; render it again to go on"
    plan = load_plan(tmp_path / "sets" / folder)
    records = [read_record(tmp_path / "sets" / folder, plan.layout, shard) for shard in range(plan.layout.num_shards)]
    assert any(records) and not all(records)


def test_a_port_that_is_taken(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = page.server.server_port
    assert run(["explore", "--no-open", f"--port={port}"]) == 2
    captured = capsys.readouterr()
    assert f"--port {port}: Address already in use" in captured.err and len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "code", "message"),
    [
        ("missing.yaml", 2, "missing.yaml: cannot be read"),
        ("empty", 2, "no folder of shards"),
        ("bad.csv", 2, "bad.csv: line 1 has 2 columns"),
        ("bad.yaml", 2, "did you mean 'sigma'"),
        ("large.yaml", 2, "the page draws up to 2048"),
        ("damaged", 1, "dataset.json"),
    ],
)
def test_a_source_that_cannot_be_read(source, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving.ExploreServer, "serve_forever", lambda self, **options: None)  # not that it waits
    for folder in ("empty", "damaged"):
        (tmp_path / folder).mkdir()
    (tmp_path / "damaged" / "dataset.json").write_text("{")
    (tmp_path / "bad.csv").write_text("1,2\n")
    (tmp_path / "bad.yaml").write_text("sigmaa: 3\n")
    (tmp_path / "large.yaml").write_text("size: 8192\n")
    assert run(["explore", "--no-open", source]) == code
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""


def test_without_the_files_of_the_page(monkeypatch, tmp_path):
    monkeypatch.setattr(serving.resources, "files", lambda package: tmp_path)
    with pytest.raises(UsageError, match="files of the page are missing"):
        serving.page_files("token")


def test_a_csv_is_a_base(tmp_path):
    path = tmp_path / "00042.csv"
    path.write_text("0.5,0.2,-0.3,0.6,0.1,0.2,0.5\n-0.4,0.3,0.2,0.5,-0.6,0.4,0.5\n")
    with explore(read_source(path, []), tmp_path) as page:
        recipe = page.session()["recipe"]
        assert recipe["maps"] == 2 and recipe["ifs"]["p"] == [0.5, 0.5]


def test_fields_say_what_controls_need(page):
    session = page.session()
    fields = {field["name"]: field for field in session["fields"]["1p-frac"]}
    assert fields["masks"]["choices"] == ["class", "shared"] and fields["masks"]["type"] == "choice"
    assert fields["size"]["at_most"] == 2048 and fields["sigma"]["above"] == 0
    for name, field in itertools.chain.from_iterable([(n, f) for f in fs] for n, fs in session["fields"].items()):
        assert field["help"] and field["type"] in ("int", "float", "choice", "numbers", "text", "bool"), (name, field)
        if slider := field["slider"]:
            assert slider["min"] < slider["max"] and slider["step"] > 0
            assert field["at_least"] is None or field["at_least"] <= slider["min"]
            assert field["at_most"] is None or slider["max"] <= field["at_most"]


def test_its_benchmark(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fracgen.explore.benchmark._STARTS", 1)
    assert run(["bench", "--explore", "--repeats=3", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    rows = {row["step"]: row["milliseconds"] for row in table["rows"]}
    assert len(rows) == 11 and all(milliseconds > 0 for milliseconds in rows.values())
    assert rows["base fractal"] < rows["grid of 16"] < rows["first picture after the command"]
    assert table["unit"] == "request" and "load of" in table["caption"]
    assert run(["bench", "--explore", "--baselines"]) == 2
