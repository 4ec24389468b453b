"""The command `jr-dist`: a verb, its arguments, and exit status 0 (done), 2 (wrong input) or 1 (a failure of ours).

SIGTERM ends it with 143, Ctrl-C with 130.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from jr_dist.errors import InputError
from jr_dist.log import is_json, say
from jr_dist.stop import EXIT_STATUS, StoppedError, ending_on_sigterm
from jr_dist.verbs.registry import VERBS
from jr_dist.verbs.verb import Verb

OVERVIEW = """usage: jr-dist VERB ...

Joint retrieval and deformation: find the best source model for a scan, and deform it to fit.

{verbs}

`jr-dist VERB --help` explains a verb. Exit status: 0 done, 2 wrong input or setting, 1 a failure of ours,
143 stopped by SIGTERM, 130 by Ctrl-C.
"""
#: stands in any word for where a cluster keeps datasets and runs
STORAGE = "$JR_STORAGE"
# What a file system answers to a path that was typed wrongly or may not be used: the user's to mend, not ours.
_PATH_ERRORS = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. `words` are those behind `jr-dist`."""
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {verb.name:<12}{verb.summary}" for verb in VERBS.values())
        print(OVERVIEW.format(verbs=verbs), end="")
        return 0
    if words and words[0] == "--version":
        from jr_dist import __version__

        print(f"jr-dist {__version__}")
        return 0
    name = words[0] if words and words[0] in VERBS else None
    if name is None:
        what = f"unknown verb {words[0]}" if words else "a verb is missing"
        return _refuse("jr-dist", f"{what}; allowed is {', '.join(VERBS)}; `jr-dist --help` says what they do")
    if "JR_DEBUG" not in os.environ and not sys.warnoptions:
        # What a library will deprecate is for us to read, in the tests.
        warnings.simplefilter("ignore")
    return guarded(f"jr-dist {name}", lambda: run(VERBS[name], words[1:]))


def run(verb: Verb, words: Sequence[str]) -> None:
    """Parse the words behind a verb and do what it says."""
    # Imported late, as all that is not needed to list the verbs: settings take a tenth of a second.
    from jr_dist.cli_arguments import Parser

    words = [_at_storage(word) for word in words]
    parser = Parser(prog=f"jr-dist {verb.name}", description=verb.description)
    verb.add_arguments(parser, words)
    parser.add_argument("--dry-run", action="store_true", help="check everything, say what would be done, and stop")
    verb.run(parser.parse(words))


def _at_storage(word: str) -> str:
    """A word with $JR_STORAGE in it, as this machine has that set: `ray job submit` quotes what it is given, so that no
    shell of the cluster expands it."""
    if STORAGE not in word:
        return word
    storage = os.environ.get(STORAGE.removeprefix("$"), "").rstrip("/")
    if not storage:
        raise InputError(
            f"{word} names {STORAGE}, which is not set on this machine; allowed is a URI or a folder that all nodes "
            "reach; set it there (cluster.yaml does for its nodes), or write the place itself"
        )
    return word.replace(STORAGE, storage)


def guarded(title: str, job: Callable[[], None]) -> int:
    """Do `job`; returns the exit status, after at most one line on stderr. JR_DEBUG=1 shows our failures in full."""
    try:
        is_json()
    except InputError as error:
        print(f"{title}: error: {error}", file=sys.stderr)
        return 2
    try:
        with ending_on_sigterm():
            job()
        sys.stdout.flush()
        return 0
    except StoppedError as stopped:
        say(f"{title}: {stopped}", level="warning", stream=sys.stderr)
        return EXIT_STATUS
    except KeyboardInterrupt:
        print(f"{title}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` perhaps, has seen enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, InputError):
                return _refuse(title, str(cause))
        if isinstance(error, _PATH_ERRORS) and error.filename:
            return _refuse(title, f"{error.filename} can't be used ({error.strerror}); correct the path")
        return _fail(title, error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what is behind it, Ray's wrappers around a worker's error included."""
    pending, seen = [error], set()
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's own class inherits from the worker's error but prints a traceback: look behind it first.
        behind = [getattr(current, "cause", None), current.__cause__]
        behind += list((getattr(current, "worker_failures", None) or {}).values())
        pending += [found for found in behind if found is not None]
        if type(current) is InputError or not isinstance(current, InputError):
            yield current


def _refuse(title: str, message: str) -> int:
    say(f"{title}: error: {' '.join(message.split())}", level="error", stream=sys.stderr)
    return 2


def _fail(title: str, error: Exception) -> int:
    if os.environ.get("JR_DEBUG") == "1":
        traceback.print_exception(error)
        return 1
    where = "run again with JR_DEBUG=1 for the traceback"
    with suppress(OSError):
        handle, log = tempfile.mkstemp(prefix=title.replace(" ", "-") + "-", suffix=".log")
        with os.fdopen(handle, "w") as file:
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {Path(log)}"
    summary = " ".join(str(error).split())[:300]
    say(f"{title}: failed: {type(error).__name__}: {summary}; {where}", level="error", stream=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
