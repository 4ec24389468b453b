"""Places by their URI: names below them, objects on a real S3 server, and what is said where a store refuses."""

from __future__ import annotations

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import free_port

from jr_dist import locations, storage
from jr_dist.atomic import atomic_write
from jr_dist.errors import InputError
from jr_dist.locations import StoreAwayError, UriPath, as_path, check_access, local_path
from jr_dist.storage import join, resolve
from jr_dist.train.run_directory import claim, newest_start, start_note


@pytest.fixture
def impatient(monkeypatch):
    """Stores are not waited for."""
    monkeypatch.setattr(locations, "PATIENCE", 0.0)
    monkeypatch.setattr(locations, "FIRST_PATIENCE", 0.0)


@pytest.mark.parametrize(("place", "names", "expected"), [
    ("/a/b", ["c"], "/a/b/c"),
    ("/a/b?c", ["d"], "/a/b?c/d"),
    ("s3://bucket", ["a", "b"], "s3://bucket/a/b"),
    ("s3://bucket/a/", ["b"], "s3://bucket/a/b"),
    ("s3://bucket/a?region=x", ["b", "c"], "s3://bucket/a/b/c?region=x"),
    ("s3://bucket?scheme=http&endpoint_override=h:1", ["b"], "s3://bucket/b?scheme=http&endpoint_override=h:1"),
])  # fmt: skip
def test_what_lies_below_keeps_the_query_of_its_place_at_the_end(place, names, expected):
    assert join(place, *names) == expected


def test_a_uri_path_names_as_a_path_does():
    uri, path = as_path("s3://bucket/runs/x?region=a"), as_path("/bucket/runs/x")
    assert isinstance(uri, UriPath) and isinstance(path, Path)
    below, here = uri / "checkpoints" / "m.a.json", path / "checkpoints" / "m.a.json"
    assert (below.name, below.stem, below.parent.name) == (here.name, here.stem, here.parent.name)
    assert str(below) == "s3://bucket/runs/x/checkpoints/m.a.json?region=a"
    assert below.parent.parent == uri and pickle.loads(pickle.dumps(uri)) == uri  # noqa: S301 - our own
    assert as_path("file:///a/b") == Path("/a/b") and as_path(uri) is uri


@pytest.mark.parametrize(("uri", "said"), [
    ("s3://key:secret@bucket/x", "holds credentials, which would be written into every run; allowed is an address"),
    ("s3://bucket/x?access_key=me", "has the option access_key; allowed are region, scheme, endpoint_override"),
    ("nosuch://bucket/x", "can't be reached .*; give a local path or a URI such as s3://bucket/folder"),
])  # fmt: skip
def test_addresses_that_can_not_be_are_refused_in_one_line(uri, said):
    with pytest.raises(InputError, match=said) as refusal:
        resolve(uri)
    assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_where_only_a_path_will_do_the_setting_is_named():
    assert local_path("/a", "--out") == Path("/a")
    with pytest.raises(InputError, match=r"--out is s3://bucket/x; allowed is a path, not a URI"):
        local_path("s3://bucket/x", "--out")


def test_the_environment_names_the_endpoint_where_the_uri_does_not(s3, monkeypatch):
    assert s3.proxy is not None
    UriPath(s3.uri("env/a")).write_text("here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.proxy.server_port}")
    assert UriPath("s3://bucket/env/a").read_text() == "here"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{s3.proxy.server_port}/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert UriPath("s3://bucket/env/a").read_text() == "here"


def test_objects_are_written_read_listed_pointed_to_and_removed(s3):
    folder = as_path(s3.uri("objects/x"))
    assert isinstance(folder, UriPath)
    assert not folder.exists() and list(folder.iterdir()) == [] and not (folder / "a").is_file()
    with pytest.raises(FileNotFoundError):
        (folder / "a").read_bytes()
    (folder / "a").write_bytes(bytes(range(256)) * 100_000)  # in several parts
    atomic_write(folder / "b.json", "{}")
    (folder / "below" / "c").write_text("ä")
    assert (folder / "a").read_bytes() == bytes(range(256)) * 100_000
    assert s3.on_disk("objects/x/below/c").read_text() == "ä"
    assert [path.name for path in folder.iterdir()] == ["a", "b.json", "below"]
    assert [path.name for path in folder.glob("*.json")] == ["b.json"]
    assert folder.is_dir() and not folder.is_file() and (folder / "a").is_file() and (folder / "below").is_dir()
    (folder / "last").point_to("below")
    assert (folder / "last").resolve() == folder / "below"
    assert (folder / "a").resolve() == folder / "a" and (folder / "none").resolve() == folder / "none"
    (folder / "b.json").unlink()
    (folder / "b.json").unlink(missing_ok=True)
    (folder / "below").remove_tree()
    assert [path.name for path in folder.iterdir()] == ["a", "last"]


REFUSED = {
    "PUT": "writing was refused",
    "HEAD": "reading was refused",
    "list": "listing was refused",
    "DELETE": "removing was refused",
}


@pytest.mark.parametrize("operation", REFUSED)
def test_what_a_store_refuses_is_named_with_the_place_and_the_remedy(s3, operation):
    folder = UriPath(s3.uri(f"refused/{operation}"))

    def rule(method: str, path: str) -> str | None:
        return "denied" if operation == ("list" if "list-type" in path else method) else None

    began = time.monotonic()
    with s3.breaking(rule), pytest.raises(InputError) as refusal:
        check_access(folder, "run.path")
    message = str(refusal.value)
    assert message.startswith(f"run.path can't be used: {str(folder).partition('?')[0]}")
    assert REFUSED[operation] in message and "ACCESS_DENIED" in message and "\n" not in message
    assert "allowed are credentials that may list, read, write and delete" in message
    assert "AWS_ACCESS_KEY_ID" in message and "policy of bucket bucket" in message
    assert time.monotonic() - began < 20, "nothing is tried again"


def test_wrong_credentials_and_a_bucket_that_is_not_there_are_named(s3, monkeypatch):
    missing = UriPath(s3.uri("x").replace("s3://bucket/", "s3://elsewhere/"))
    with pytest.raises(InputError, match=r"NO_SUCH_BUCKET.*; make bucket elsewhere or correct its name"):
        check_access(missing, "run.path")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    storage._s3.cache_clear()  # a process reads its credentials once
    try:
        with pytest.raises(InputError, match=r"x: writing was refused \(SIGNATURE_DOES_NOT_MATCH|\?.*DOES_NOT_MATCH"):
            check_access(UriPath(s3.uri("x")), "run.path")
    finally:
        storage._s3.cache_clear()


def test_a_store_that_does_not_answer_is_not_waited_for_without_end(impatient):
    nowhere = UriPath(f"s3://nowhere/x?scheme=http&endpoint_override=127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match=r"run\.path can't be used: .*x/\.check-.* does not answer for 0 s \(NETWORK"):
        check_access(nowhere, "run.path")
    with pytest.raises(StoreAwayError, match="allowed is a store that every node reaches"):
        nowhere.read_bytes()


def test_a_store_that_comes_back_is_waited_for(s3, capsys):
    path = UriPath(s3.uri("away/a"))
    path.write_text("before")
    with ThreadPoolExecutor(1) as pool:
        s3.kill()
        answer = pool.submit(path.read_text)
        time.sleep(3)
        s3.start()
        assert answer.result() == "before"
    assert capsys.readouterr().out.count("does not answer") == 1


def test_starts_at_the_same_moment_get_different_numbers(s3):
    run = UriPath(s3.uri("claims"))
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda number: claim(run, f"start {number}"), range(8)))
    assert len(set(numbers)) == 8 and newest_start(run) == max(numbers)
    reasons = {json.loads(start_note(run, number).read_text())["reason"] for number in numbers}
    assert reasons == {f"start {number}" for number in range(8)}


def test_of_two_that_ask_for_a_number_one_at_most_keeps_it_whoever_looks_when(s3, monkeypatch):
    """Somebody else's claim appears behind ours and before we look: ours is withdrawn."""
    run, listed = UriPath(s3.uri("claimed")), []
    glob, waits = UriPath.glob, []

    def late(path: UriPath, pattern: str):
        if not listed:
            (run / "starts" / "0001.0000.claim").write_text("")
        listed.append(pattern)
        return glob(path, pattern)

    monkeypatch.setattr(UriPath, "glob", late)
    monkeypatch.setattr("jr_dist.train.run_directory.time.sleep", waits.append)
    assert claim(run, "ours") == 2 and len(waits) == 1
    assert sorted(path.name.partition(".")[0] for path in (run / "starts").iterdir()) == ["0001", "0002", "0002"]


@pytest.mark.slow
def test_google_without_credentials_is_refused_in_time(monkeypatch, tmp_path):
    """Its client alone would try for 15 minutes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(InputError, match=r"run\.path can't be used: gs://bucket/run/.*GOOGLE_APPLICATION_CREDENTIALS"):
        check_access(UriPath("gs://bucket/run?retry_limit_seconds=1"), "run.path")
    monkeypatch.setattr(storage, "_GS_SECONDS", 1)
    with pytest.raises(InputError, match="no Google credentials were found"):
        UriPath("gs://bucket/run").is_file()
