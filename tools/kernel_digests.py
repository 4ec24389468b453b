"""Write into each file of compiled loops the digest of the files whose loops it calls.

    python tools/kernel_digests.py          # as `make format` does
    python tools/kernel_digests.py --check  # as the tests do: name the files that are behind, status 1

numba keeps machine code on disk by the text of the one file a function stands in. The digest is in that text, so that
a change in a file it calls, and may have taken into its own code, is noticed too.
"""

import argparse
import ast
import hashlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILER = "jr_dist/geometry/simd.py"
DIGEST = re.compile(r'^HELPERS = "(\w*)"$', re.MULTILINE)


def imported(text: str) -> set[str]:
    """Every file of the package that this text may import from, relative to the root."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {name.replace(".", "/") + ".py" for name in names}
    return found


def kernel_files(root: Path) -> dict[str, str]:
    """The text of each file that compiles or emits loops, by its path relative to the root."""
    paths = (path.relative_to(root).as_posix() for path in (root / "jr_dist").rglob("*.py"))
    texts = {path: (root / path).read_text() for path in sorted(paths)}
    return {path: text for path, text in texts.items() if path == COMPILER or COMPILER in imported(text)}


def helpers(path: str, texts: dict[str, str]) -> set[str]:
    """The files of loops that `path` imports, those that they import, and so on."""
    found: set[str] = set()
    ahead = {path}
    while ahead:
        ahead = {name for one in ahead for name in imported(texts[one]) & texts.keys()} - found - {path}
        found |= ahead
    return found


def digest(path: str, texts: dict[str, str]) -> str:
    """Of the text of all helpers; their own digests are left out, so that no order of writing matters."""
    text = "\n".join(DIGEST.sub("", texts[name]) for name in sorted(helpers(path, texts)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def behind(root: Path) -> dict[str, str]:
    """The text that each file should have, of those whose digest isn't that of its helpers.

    Raises:
        ValueError: a file has loops kept on disk and no line for the digest.
    """
    texts = kernel_files(root)
    found = {}
    for path, text in texts.items():
        if path == COMPILER or not re.search(r"^@compiled$", text, re.MULTILINE):
            continue
        if len(DIGEST.findall(text)) != 1:
            raise ValueError(f'{path} has loops kept on disk; give it one line HELPERS = "" behind its imports')
        expected = DIGEST.sub(f'HELPERS = "{digest(path, texts)}"', text)
        if expected != text:
            found[path] = expected
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 where a file is behind")
    check = parser.parse_args().check
    try:
        found = behind(ROOT)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, text in found.items():
        print(f"{path}: {'its digest is behind its helpers; run make format' if check else 'digest written'}")
        if not check:
            (ROOT / path).write_text(text)
    return int(check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
