"""The run report: the seconds of all starts, by stage, and what they cost."""

import json

import pytest
from conftest import TINY_SETTINGS

from jr_dist.config import load_config
from jr_dist.train.run_report import JSON, MARKDOWN, Resources, as_markdown, run_report, write_report
from jr_dist.train.stages import STAGES
from jr_dist.train.trainer import train

RESOURCES = Resources(num_workers=2, num_gpus=2, num_cpus=1.5, spilled_bytes=5_000_000)


@pytest.fixture
def run(tmp_path):
    """Two starts: the first failed behind its validation at 100 s, the second ended at 50 s."""
    (tmp_path / "starts").mkdir()
    reasons = {1: "started", 2: "start 1 failed; goes on from step 4, after ActorDiedError: a worker | gone"}
    for number, reason in reasons.items():
        note = {"reason": reason, "time": f"2026-01-0{number} 10:00:00", "host": "node", "pid": 1}
        (tmp_path / "starts" / f"{number:04d}.json").write_text(json.dumps(note))
    stages = dict.fromkeys(STAGES, 0.0)
    lines = [
        {"step": 0, "part": "train", "fit": 0.5},
        {"step": 1, "part": "val", "chamfer_x100": 9.0, "start": 1, "seconds": 40.0, "stages": {**stages, "data": 4.0}},
        {
            "step": 3,
            "part": "val",
            "chamfer_x100": 4.0,
            "start": 1,
            "seconds": 100.0,
            "stages": {**stages, "data": 9.0},
        },
        {"step": 5, "part": "val", "chamfer_x100": 3.0, "start": 2, "seconds": 45.0, "stages": {**stages, "bank": 2.0}},
        {"step": 5, "part": "end", "start": 2, "seconds": 50.0, "stages": {**stages, "bank": 3.0, "compute": 30.0}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 6, "par')  # a process was killed while it wrote
    return tmp_path


def test_each_start_counts_once_by_its_last_line(run):
    report = run_report(run, "Ours", RESOURCES)
    assert report.steps == 6 and report.failures == 1
    assert report.seconds == 150.0 == sum(start.seconds for start in report.starts)
    assert report.stages["data"] == 9.0 and report.stages["bank"] == 3.0 and report.stages["compute"] == 30.0
    assert report.gpu_hours == pytest.approx(150 / 3600 * 2) and report.cpu_hours == pytest.approx(150 / 3600 * 1.5)
    assert report.validation["chamfer_x100"] == 3.0


def test_what_is_written_is_whole_and_a_table(run):
    path = write_report(run_report(run, "Ours", RESOURCES))
    assert path == run / MARKDOWN
    text = path.read_text()
    for start_of_row in ("| data | 9.0 | 6.0% |", "| rest | 108.0 |", "| 2 | 2026-01-02 10:00:00 | node |"):
        assert start_of_row in text
    assert "a worker \\| gone" in text and "5.0 MB" in text
    assert json.loads((run / JSON).read_text())["stages"]["bank"] == 3.0


def test_a_note_cut_short_by_a_kill_leaves_the_others_and_the_report(run):
    (run / "starts" / "0003.json").write_text("")
    report = run_report(run, "Ours", RESOURCES)
    assert [start.number for start in report.starts] == [1, 2, 3] and report.seconds == 150.0
    assert "cut short" in report.starts[2].reason


def test_a_run_that_never_got_to_a_step_has_a_report(tmp_path):
    text = as_markdown(run_report(tmp_path, "Ours", Resources(0, 0, 1, None)))
    assert "0 steps in 0:00" in text and "unknown" in text


def test_the_stages_of_a_real_run_are_its_time(tiny_dataset, tmp_path):
    settings = {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": str(tmp_path / "run")}
    train(load_config(None, settings))
    report = json.loads((tmp_path / "run" / JSON).read_text())
    assert report["failures"] == 0 and len(report["starts"]) == 1
    assert all(report["stages"][name] > 0 for name in ("start", "data", "compute", "validation", "checkpoint"))
    assert 0.8 * report["seconds"] < sum(report["stages"].values()) < report["seconds"] + 0.2
