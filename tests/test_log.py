"""JR_LOG=json: each line of a long job is one JSON object, whatever it says; text is what it was."""

import io
import json

import numpy as np
import pytest

from jr_dist.cli import main
from jr_dist.errors import InputError
from jr_dist.log import is_json, say
from jr_dist.progress import progress


@pytest.fixture
def as_json(monkeypatch):
    monkeypatch.setenv("JR_LOG", "json")


def test_text_is_the_message_alone(capsys):
    say("step 3", fields={"step": 3})
    assert capsys.readouterr().out == "step 3\n"


def test_a_line_of_json_keeps_numbers_and_survives_what_json_lacks(as_json, capsys):
    say('a "quoted"\nline', level="warning", fields={"step": np.int64(3), "loss": float("nan"), "rate": 0.5, "to": {1}})
    [line] = capsys.readouterr().out.splitlines()
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    message = 'a "quoted"\nline'
    assert entry == {"level": "warning", "message": message, "step": 3, "loss": None, "rate": 0.5, "to": "{1}"}


def test_progress_is_json_and_never_a_bar(as_json):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with progress("ingest", 4, unit="file", stream=stream) as state:
        state.advance(4, loss=0.25)
    [*_, last] = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {name: last[name] for name in ("event", "title", "done", "total", "loss")} == {
        "event": "progress",
        "title": "ingest",
        "done": 4,
        "total": 4,
        "loss": 0.25,
    }


def test_errors_are_json_too(as_json, capsys):
    assert main(["train", "--run.path", "r", "--data.path", "nowhere"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error" and "nowhere" in entry["message"]


def test_another_format_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("JR_LOG", "xml")
    with pytest.raises(InputError, match="text or json"):
        is_json()
    assert main(["train", "--run.path", "r", "--data.path", "nowhere"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "JR_LOG is 'xml'" in line
