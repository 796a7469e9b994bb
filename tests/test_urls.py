"""Which texts are URLs, and what of one is ever shown."""

from pathlib import Path

import pytest

from fracgen.shards.errors import UsageError, one_line, printable
from fracgen.shards.remote import Url
from fracgen.shards.settings import convert, to_plain
from fracgen.shards.urls import is_url, redact
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


@pytest.mark.parametrize("text", ["a/b", f"simplecache::s3://u:{SECRET}@b/x", "file:///x", "local:///x"])
def test_what_is_no_url_of_another_machine(text):
    with pytest.raises(UsageError) as caught:
        Url.parse(text)
    assert SECRET not in str(caught.value)
