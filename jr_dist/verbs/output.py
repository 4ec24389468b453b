"""What verbs that write a dataset say before they would."""

from pathlib import Path

from jr_dist.errors import InputError


def check_new(out: str) -> None:
    """Raise `InputError` where `out` is taken: a dry run must refuse what the run would. A URI is not asked."""
    path = Path(out)
    if "://" not in out and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"output {out} exists already; allowed is a new or empty directory; remove it or name another")
