"""The command line: help, exit statuses, one line of error, and no import before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jr_dist import cli
from jr_dist.cli_arguments import Parser, names, whole_number
from jr_dist.errors import InputError
from jr_dist.verbs.registry import VERBS

ROOT = Path(__file__).parent.parent
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "jr_dist", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([verb, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: jr-dist {verb}" in shown
    assert "--dry-run" in shown


def test_the_help_of_train_shows_the_values_of_the_file(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: {path: here}\ntrain: {epochs: 123}\n")
    with pytest.raises(SystemExit):
        cli.main(["train", "--help", str(tmp_path / "c.yaml")])
    shown = capsys.readouterr().out
    assert "[123]" in shown
    assert "[here]" in shown


def test_storage_is_named_where_it_is_set(monkeypatch, tmp_path, capsys):
    """`ray job submit` quotes '$JR_STORAGE/...', so the command itself looks what that is."""
    monkeypatch.setenv("JR_STORAGE", f"{tmp_path}/")
    words = ["synthesize", "$JR_STORAGE/data/tiny", "--dry-run"]
    assert cli.main(words) == 0
    assert f"to {tmp_path}/data/tiny\n" in capsys.readouterr().out
    monkeypatch.delenv("JR_STORAGE")
    assert cli.main(words) == 2 and cli.main(["train", "--run.path=$JR_STORAGE/run"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all("names $JR_STORAGE, which is not set on this machine" in line for line in lines)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["fit"], ["nonsense"]])
def test_nothing_heavy_is_imported_to_explain_or_refuse(words):
    listing = (
        "import sys, contextlib; from jr_dist.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({words!r})\n"
        "print(*sorted({'torch', 'numpy', 'ray', 'trimesh', 'pyarrow', 'numba'} & set(sys.modules)), 'end')"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.splitlines()[-1].strip() == "end"


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ([], ["a verb is missing", "train"]),
        (["trian"], ["unknown verb trian", "train"]),
        (["train", "nowhere.yaml"], ["nowhere.yaml can't be read"]),
        (["train", QUICKSTART, "--train.epoch", "3"], ["--train.epoch;", "did you mean --train.epochs?"]),
        (["train", QUICKSTART, "--train.epochs", "x"], ["train.epochs is x"]),
        (["train", "--train.epochs", "x", QUICKSTART], ["train.epochs is x"]),
        (["synthesize", "out", "--num-sources", "0"], ["--num-sources", "'0'", "1 or more"]),
        (["synthesize", "out", "--categories", "chair,sofa"], ["--categories", "sofa", "chair, table, cabinet"]),
        (["synthesize", "out", "--num-source", "3"], ["did you mean --num-sources?"]),
        (["fit", "run"], ["INPUT", "--out"]),
    ],
)
def test_a_wrong_word_is_one_line_and_status_2(words, needed, capsys):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    title = f"jr-dist {words[0]}" if words and words[0] in VERBS else "jr-dist"
    assert captured.err.startswith(f"{title}: error: ")
    missing = [word for word in needed if word not in captured.err]
    assert not missing, captured.err


def test_statuses_of_a_job(capsys, tmp_path):
    def raising(error: BaseException):
        def job() -> None:
            raise error

        return cli.guarded("jr-dist x", job)

    assert cli.guarded("jr-dist x", lambda: None) == 0
    assert raising(InputError("a is b;\n c")) == 2
    assert capsys.readouterr().err == "jr-dist x: error: a is b; c\n"
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "jr-dist x: interrupted\n"
    assert raising(PermissionError(13, "Permission denied", str(tmp_path))) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_failure_of_ours_is_one_line_and_a_log(capsys, monkeypatch):
    def job() -> None:
        raise RuntimeError("broken\nin two lines")

    monkeypatch.delenv("JR_DEBUG", raising=False)
    assert cli.guarded("jr-dist x", job) == 1
    message = capsys.readouterr().err
    assert message.startswith("jr-dist x: failed: RuntimeError: broken in two lines; the traceback is in ")
    log = Path(message.split(" the traceback is in ")[1].strip())
    assert "Traceback" in log.read_text()
    log.unlink()
    monkeypatch.setenv("JR_DEBUG", "1")
    assert cli.guarded("jr-dist x", job) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_worker_s_input_error_is_found_behind_its_wrappers(capsys):
    class WorkerGroupError(RuntimeError):
        """As Ray Train raises it: the workers' errors by rank, not as a cause."""

        def __init__(self) -> None:
            super().__init__("many lines\nof a remote traceback")
            failure = RuntimeError("wrapped")
            failure.__cause__ = InputError("K is 10; allowed is 4")
            self.worker_failures = {0: failure}

    def job() -> None:
        raise WorkerGroupError

    assert cli.guarded("jr-dist x", job) == 2
    assert capsys.readouterr().err == "jr-dist x: error: K is 10; allowed is 4\n"


def test_the_command_s_exit_status_and_streams_are_those_of_main():
    refused = run("train", "nowhere.yaml")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    shown = run("--version")
    assert (shown.returncode, shown.stderr) == (0, "")


def test_converters_accept_what_they_name():
    parser = Parser(prog="x")
    parser.add_argument("--n", type=whole_number(2))
    parser.add_argument("--names", type=names("a", "b"))
    assert vars(parser.parse(["--n", "2", "--names", "b, a,b"])) == {"n": 2, "names": ("b", "a")}
    for words in (["--n", "1"], ["--n", "1.5"], ["--names", ""], ["--names", "a,c"], ["--n"], ["--m", "3"], ["extra"]):
        with pytest.raises(InputError):
            parser.parse(words)
