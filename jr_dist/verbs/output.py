"""What verbs that write a dataset say before they would."""

from jr_dist.errors import InputError
from jr_dist.locations import as_path


def check_new(out: str) -> None:
    """Raise `InputError` where `out` is taken: a dry run must refuse what the run would."""
    path = as_path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"output {out} exists already; allowed is a new or empty directory; remove it or name another")
