"""Where data lies: a local path or a URI (s3, gs, file), reached through `pyarrow.fs`.

A URI may carry a query that says how its store is reached (`s3://bucket/folder?scheme=http&endpoint_override=HOST:PORT`);
what lies below it is named by `join`, which keeps the query at the end.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from jr_dist.errors import InputError

if TYPE_CHECKING:  # which reads and writes by these functions
    from jr_dist.locations import AnyPath

_REMEDY = "give a local path or a URI such as s3://bucket/folder"
#: what the query of an s3 URI may say
_S3_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path")
#: seconds, and attempts of a request: with all waits between them the client gives up within two minutes
_CONNECT_SECONDS, _ANSWER_SECONDS, _ATTEMPTS = 10.0, 30.0, 3
#: seconds for which Google's client repeats a request; its own choice is 15 minutes
_GS_SECONDS = 30


def as_location(path: str | AnyPath) -> str:
    """`path` as text: an absolute local path (also for file:// URIs), or the URI as it is."""
    text = str(path)
    if text.startswith("file://"):
        return text.removeprefix("file://")
    return text if is_uri(text) else str(Path(text).absolute())


def is_uri(path: str | AnyPath) -> bool:
    """Whether `path` has a scheme ("s3://...")."""
    return "://" in str(path)


def join(location: str, *names: str) -> str:
    """The location of what lies below another; the query of a URI stays at its end."""
    base, mark, query = location.partition("?") if is_uri(location) else (location, "", "")
    return "/".join([base.rstrip("/"), *names]) + mark + query


def resolve(location: str, filesystem: pafs.FileSystem | None = None) -> tuple[pafs.FileSystem, str]:
    """The file system of a location and the path within it.

    `filesystem`, where given, is used as it is. Raises `InputError` for a scheme nobody knows, and for a URI that holds
    credentials: it is written into settings and checkpoints.
    """
    if filesystem is not None:
        return filesystem, location.rstrip("/")
    if not is_uri(location):
        return pafs.LocalFileSystem(), location
    parts = urlsplit(location)
    if parts.username is not None:
        raise InputError(
            f"{parts.scheme}://...@{parts.hostname} holds credentials, which would be written into every run; allowed "
            "is an address alone; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        if parts.scheme == "s3":
            return _s3(parts.netloc, parts.query, _endpoint()), f"{parts.netloc}{parts.path}".rstrip("/")
        if parts.scheme in ("gs", "gcs") and "retry_limit_seconds" not in parts.query:
            location += f"{'&' if parts.query else '?'}retry_limit_seconds={_GS_SECONDS}"
        found, root = _from_uri(location)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(f"{location} can't be reached ({error}); {_REMEDY}") from error
    return found, root.rstrip("/")


_from_uri = lru_cache(maxsize=64)(pafs.FileSystem.from_uri)


def _endpoint() -> str:
    """The server that the environment names instead of Amazon's, as a URL; "" where it names none."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


@lru_cache(maxsize=64)
def _s3(bucket: str, query: str, endpoint: str) -> pafs.S3FileSystem:
    """What reaches a bucket, once in a process: with timeouts, which `from_uri` can't be told, and few attempts."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(_S3_OPTIONS))
    if unknown:
        raise InputError(
            f"s3://{bucket}/...?{query} has the option {unknown[0]}; allowed are {', '.join(_S3_OPTIONS)}; leave it out"
        )
    if endpoint and "endpoint_override" not in options:
        scheme, _, host = endpoint.rpartition("://")
        options = {"scheme": scheme or "https", **options, "endpoint_override": host.rstrip("/")}
    region = options.pop("region", None) or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if "endpoint_override" in options else pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        region=region,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_ANSWER_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        allow_delayed_open=True,  # a small object is one request
        **options,
    )


def read_bytes(filesystem: pafs.FileSystem, path: str) -> bytes:
    """All of one file."""
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write_bytes(filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """One whole file; on an object store it appears when it is complete."""
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def file_size(filesystem: pafs.FileSystem, path: str) -> int | None:
    """Bytes of a file; None where there is none."""
    info = filesystem.get_file_info(path)
    return info.size if info.type == pafs.FileType.File else None


def is_empty(filesystem: pafs.FileSystem, root: str) -> bool:
    """Whether nothing lies below `root` (it needn't exist)."""
    return not filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=False))
