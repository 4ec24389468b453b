"""A file or folder by its location: a `Path`, or a `UriPath` with the same few methods for what an object store keeps.

Who writes and reads whole files by these methods need not know where they lie. An object store has no folders, renames
or links: an object appears when it is whole, and what takes a link's place is a small object that holds a name.
"""

from __future__ import annotations

import fnmatch
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jr_dist.errors import InputError
from jr_dist.log import say

if TYPE_CHECKING:  # Arrow takes a moment to import and is not needed for local paths
    import pyarrow.fs as pafs

Result = TypeVar("Result")

#: seconds that an answer is waited for: of a store that has not answered this process yet, and of one that has
FIRST_PATIENCE, PATIENCE = 10.0, 300.0
_SECONDS_BETWEEN_ATTEMPTS = 2.0
_POINTS_TO = re.compile(r"-> ([\w.-]+)\n")
#: what Arrow's messages say of a store that refuses, and of one that can't be reached at the moment
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET|INVALID_CLIENT_TOKEN_ID|EXPIRED_TOKEN"
    r"|OAuth2 access token|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|HTTP status 4\d\d"
)
_AWAY = re.compile(
    r"NETWORK_CONNECTION|Status\(UNAVAILABLE|INTERNAL_FAILURE|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT"
    r"|HTTP status 5\d\d"
)
_answered: set[str] = set()


class StoreAwayError(OSError):
    """An object store did not answer for as long as we wait."""


@dataclass(frozen=True)
class UriPath:
    """An object of a store, or the objects below a name. Small, and it pickles.

    All methods that ask the store raise `InputError` where it refuses and `StoreAwayError` where it does not answer for
    `PATIENCE` seconds; of one that never answered, `FIRST_PATIENCE`.
    """

    location: str

    def __str__(self) -> str:
        return self.location

    def __truediv__(self, name: str) -> UriPath:
        from jr_dist.storage import join

        return UriPath(join(self.location, name))

    @property
    def name(self) -> str:
        """The last part, without the query."""
        return self.location.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> UriPath:
        """What it lies below."""
        base, mark, query = self.location.partition("?")
        return UriPath(base.rstrip("/").rpartition("/")[0] + mark + query)

    def read_bytes(self) -> bytes:
        """The whole object. Raises `FileNotFoundError` where there is none."""
        from jr_dist.storage import read_bytes

        return self._ask("reading", read_bytes)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The whole object as text; like `read_bytes`."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> int:
        """Put the object in the place of what was there."""
        from jr_dist.storage import write_bytes

        self._ask("writing", lambda filesystem, path: write_bytes(filesystem, path, content))
        return len(content)

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        """Put the object; like `write_bytes`."""
        return self.write_bytes(content.encode(encoding))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self._kind().name == "File"

    def is_dir(self) -> bool:
        """Whether there are objects below this name."""
        return self._kind().name == "Directory"

    def exists(self) -> bool:
        """Whether there is an object of this name or below it."""
        return self._kind().name != "NotFound"

    def iterdir(self) -> Iterator[UriPath]:
        """What lies directly below, by name; nothing where there is nothing."""
        from pyarrow.fs import FileSelector

        def listed(filesystem: pafs.FileSystem, path: str) -> list[str]:
            return [info.base_name for info in filesystem.get_file_info(FileSelector(path, allow_not_found=True))]

        return (self / name for name in sorted(self._ask("listing", listed)))

    def glob(self, pattern: str) -> Iterator[UriPath]:
        """What lies directly below and has a name of this pattern."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there when something lies in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object."""

        def remove(filesystem: pafs.FileSystem, path: str) -> None:
            try:
                filesystem.delete_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

        self._ask("removing", remove)

    def remove_tree(self) -> None:
        """Remove all objects below, as far as the store lets us at this moment."""
        from jr_dist.storage import resolve

        filesystem, path = resolve(self.location)
        with suppress(OSError):
            filesystem.delete_dir(path)

    def point_to(self, name: str) -> None:
        """Make this what `resolve` follows to `name`, which lies beside it."""
        self.write_text(f"-> {name}\n")

    def resolve(self) -> UriPath:
        """Where this points to; itself where it does not."""
        try:
            found = _POINTS_TO.fullmatch(self.read_text())
        except (FileNotFoundError, UnicodeDecodeError):
            return self
        return self.parent / found[1] if found else self

    def _kind(self) -> pafs.FileType:
        return self._ask("looking", lambda filesystem, path: filesystem.get_file_info(path).type)

    def _ask(self, doing: str, work: Callable[[pafs.FileSystem, str], Result]) -> Result:
        """What the store answers; a store that is away is waited for."""
        from jr_dist.storage import resolve

        filesystem, path = resolve(self.location)
        store = path.partition("/")[0]
        began, said = time.monotonic(), False
        while True:
            try:
                answer = work(filesystem, path)
            except FileNotFoundError:
                _answered.add(store)
                raise
            except OSError as error:
                if _REFUSED.search(str(error)):
                    raise refusal(self, doing, error) from None
                if not _AWAY.search(str(error)):
                    raise
                patience = PATIENCE if store in _answered else FIRST_PATIENCE
                if time.monotonic() - began > patience:
                    _answered.discard(store)  # the next question needn't wait as long again
                    raise StoreAwayError(
                        f"{self} does not answer for {patience:g} s ({_said(error)}); allowed is a store that every "
                        "node reaches; mend it or the network, or endpoint_override, then start again"
                    ) from None
                if not said:
                    say(f"{self} does not answer ({_said(error)}); asked again for {patience:g} s", level="warning")
                    said = True
                time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
            else:
                _answered.add(store)
                return answer


AnyPath = Path | UriPath


def as_path(location: str | AnyPath) -> AnyPath:
    """A location as something to read and write: a `Path` for local ones, file:// among them."""
    if isinstance(location, Path | UriPath):
        return location
    if location.startswith("file://"):
        return Path(location.removeprefix("file://"))
    return UriPath(location) if "://" in location else Path(location)


def local_path(location: str | AnyPath, setting: str) -> Path:
    """A place on this machine or a shared file system. Raises `InputError` naming `setting` for a URI."""
    path = as_path(location)
    if isinstance(path, UriPath):
        raise InputError(f"{setting} is {path}; allowed is a path, not a URI; name one, and copy it afterwards")
    return path


def check_access(folder: UriPath, setting: str) -> None:
    """Write, read, list and remove an object below `folder`. Raises `InputError` naming what was refused."""
    probe, content = folder / f".check-{uuid.uuid4().hex}", b"jr-dist looks whether it may write here\n"
    try:
        probe.write_bytes(content)
        seen = probe.read_bytes() == content and probe.name in [path.name for path in folder.iterdir()]
        probe.unlink(missing_ok=True)
    except (InputError, StoreAwayError) as error:
        raise InputError(f"{setting} can't be used: {error}") from None
    if not seen:
        raise InputError(
            f"{setting} {folder} does not return what was written to it at once; allowed is a store that does, as S3; "
            "name another"
        )


def refusal(path: UriPath, doing: str, error: OSError) -> InputError:
    """What a person is told whose credentials or bucket are not the right ones."""
    bucket = path.location.partition("?")[0].partition("://")[2].partition("/")[0]
    said = _said(error)
    if "OAuth2 access token" in said:
        return InputError(
            f"{path}: {doing} was refused, as no Google credentials were found; allowed are those that may list, read, "
            "write and delete there; name a key file in GOOGLE_APPLICATION_CREDENTIALS on every node"
        )
    if "NO_SUCH_BUCKET" in said:
        return InputError(
            f"{path}: {doing} was refused ({said}); allowed is a bucket that there is; make bucket {bucket} or correct "
            "its name, or the endpoint_override"
        )
    if "MissingContentLength" in said:
        return InputError(
            f"{path}: {doing} was refused ({said}); this store takes no checksums behind the content: set "
            "AWS_REQUEST_CHECKSUM_CALCULATION=when_required on every node"
        )
    return InputError(
        f"{path}: {doing} was refused ({said}); allowed are credentials that may list, read, write and delete there; "
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every node (or AWS_PROFILE, or the node's role), or mend "
        f"the policy of bucket {bucket}"
    )


def _said(error: OSError) -> str:
    """What the store said, in one line, without Arrow's words around it."""
    text = " ".join(str(error).split())
    found = re.search(r"AWS Error (.*)", text)
    text = found[1] if found else text
    return text if len(text) <= 200 else text[:197] + "..."
