"""Which texts are URLs, and what of one is ever shown."""

import base64
import logging
import sys
import warnings
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from fracgen.cli.app import run
from fracgen.shards.errors import UsageError, one_line, printable
from fracgen.shards.remote import Url, retrying
from fracgen.shards.settings import convert, to_plain
from fracgen.shards.urls import is_url, redact, secrets_of
from fracgen.train.pretrain import Pretraining

SECRET = "s3cr3t"
HIDDEN = {
    "s3://bucket/x": "s3://bucket/x",
    f"https://{SECRET}@host/x": "https://***@host/x",
    f"https://user:{SECRET}@host:8080/x": "https://***@host:8080/x",
    f"sftp://user:{SECRET}/{SECRET}@host/x": "sftp://***@host/x",
    f"https://user:{SECRET}@{SECRET}@host/x": "https://***@host/x",
    f"https://host/x/a.tar?X-Amz-Signature={SECRET}&X-Amz-Date=1": "https://host/x/a.tar?***",
    f"https://host/x?token={SECRET}": "https://host/x?***",
    f"https:/host/x?sig='{SECRET}')": "https:/host/x?***')",
    f"see https://u:{SECRET}@h/a?b={SECRET} and https://h/c?{SECRET}": "see https://***@h/a?*** and https://h/c?***",
    f"zip://a.zip::https://u:{SECRET}@h/": "zip://***@h/",
    "hf://datasets/name/set@v1/a": "hf://datasets/name/set@v1/a",
    "https://host:8080/a@b": "https://host:8080/a@b",
    "tcp://host:8786": "tcp://host:8786",
    "really? a/b:c d@e": "really? a/b:c d@e",
    "C:/x?y": "C:/x?y",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_secrets_of_urls_are_hidden(text):
    assert redact(text) == HIDDEN[text]
    assert redact(redact(text)) == redact(text)
    for shown in (
        one_line(text),
        printable(text),
        repr(to_plain({"a": [text]})),
        str(to_plain(Pretraining(shards=text))),
    ):
        assert SECRET not in shown


@pytest.mark.parametrize("text", [text for text in HIDDEN if is_url(text) and "::" not in text])
def test_a_url_shows_no_secret(text):
    url = Url.parse(text) / "dataset.json"
    assert SECRET not in f"{url} {url!r} {[url]} {url.name}"
    assert (SECRET in url.full) == (SECRET in text)
    with pytest.raises(UsageError) as caught:
        convert(Path, text, "--out")
    assert SECRET not in str(caught.value) and "is a URL; only paths of this machine" in str(caught.value)


def test_urls_are_told_from_paths():
    assert is_url("s3://bucket/x") and is_url(Path("gs://bucket")) and is_url("file:///x")
    assert not any(map(is_url, ("/a/b", "a/b:c", Path("C:/x"), "a", "")))


def test_files_below_a_url():
    assert (Url.parse("s3://bucket/x/") / "a.tar").full == "s3://bucket/x/a.tar"
    assert (Url.parse("https://host/x?token=1") / "a.tar").full == "https://host/x/a.tar?token=1"
    assert Url.parse("memory:/x").full == "memory://x" and Url.parse("s3://bucket/x").scheme == "s3"


@pytest.mark.parametrize(
    "text",
    [
        "a/b",
        f"simplecache::s3://u:{SECRET}@b/x",
        "file:///x",
        "local:///x",
        "s3://",
        "memory:///",
        f"https://?{SECRET}",
    ],
)
def test_what_is_no_url_of_another_machine(text):
    with pytest.raises(UsageError) as caught:
        Url.parse(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("secret", ["s3cr3t", "s3%2Fcr%20et", "s3+cr'et", "pa/ss@w"])
def test_no_library_says_a_credential_of_the_url_in_any_form(secret):
    url = Url.parse(f"https://somebody:{secret}2@host/x?token={secret}3&version=1")
    for each in ("somebody", f"{secret}2", f"{secret}3"):
        forms = [each, unquote(each), quote(unquote(each), safe=""), repr(unquote(each))]
        for form in (*forms, base64.b64encode(f"somebody:{secret}2".encode()).decode()):
            text = url.hide(f'bad name "{form}", see {form}: v1')
            assert form.strip("'") not in text and "***" in text and text.endswith(": v1")


def test_credentials_of_a_letter_are_hidden_as_words():
    assert Url.parse("s3://a:b@bucket/x").hide('a bad "a:b@bucket", "b"') == '*** bad "***@bucket", "***"'
    assert secrets_of("s3://bucket/x") == () and Url.parse("hf://datasets/me/x@v1").hide("me x v1") == "me x v1"


def test_a_failure_that_stays_is_said_once_and_without_the_secret():
    class ParamValidationError(Exception):
        """As botocore's."""

    url, calls = Url.parse(f"s3://user:{SECRET}@bucket/x"), []

    def act():
        calls.append(1)
        raise ParamValidationError("." * 195 + f"user:{SECRET}@bucket")

    with warnings.catch_warnings(), pytest.raises(UsageError) as caught:
        warnings.simplefilter("error")
        retrying(act, url)
    assert len(calls) == 1 and SECRET[:3] not in str(caught.value)


def test_what_libraries_log_shows_no_secret(monkeypatch, capsys):
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(sys.stderr))
    assert run(["--version"]) == 0
    try:
        raise OSError(f"https://user:{SECRET}@host/x")
    except OSError:
        record = logging.LogRecord(
            "library", logging.ERROR, "x.py", 1, "at %s", (f"https://h?{SECRET}",), sys.exc_info()
        )
    text = logging.lastResort.format(record)
    assert SECRET not in text and "at https://h?***" in text and "OSError: https://***@host/x" in text
