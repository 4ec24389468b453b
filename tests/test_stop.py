"""SIGTERM: a checkpoint behind the step under way, from which the same command goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY_SETTINGS
from test_train import arrays_of

from jr_dist.config import load_config
from jr_dist.stop import EXIT_STATUS, StoppedError, asked_to_stop, ending_on_sigterm
from jr_dist.train import trainer
from jr_dist.train.checkpoint import saved_step
from jr_dist.train.journal import read_metrics
from jr_dist.train.trainer import train

DRIVER = """
import sys
from jr_dist.cli import main
from jr_dist.train import loop

of_loop = loop._one_step

def first_step_takes_long(state, schedule, batch, following):
    if state.step == 1:
        print("in step 1", flush=True)
        if state.group.rank == 0:
            import time
            time.sleep(3)
    return of_loop(state, schedule, batch, following)

loop._one_step = first_step_takes_long
sys.exit(main(sys.argv[1:]))
"""


def test_the_first_sigterm_is_noted_and_the_second_ends():
    with asked_to_stop() as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert asked.is_set()
        with pytest.raises(StoppedError, match="twice"):
            signal.raise_signal(signal.SIGTERM)


def test_without_a_checkpoint_to_save_it_ends_at_once_and_the_handler_before_is_back():
    before = signal.getsignal(signal.SIGTERM)
    with ending_on_sigterm(), pytest.raises(StoppedError):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stopped_run_goes_on_to_the_bits_of_one_that_was_not(tiny_dataset, tmp_path, monkeypatch):
    def config(name: str):
        return load_config(None, {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": str(tmp_path / name)})

    train(config("whole"))
    real, steps = trainer.run_training, []

    def stopping(*args, **named):
        def stop():
            steps.append(1)
            if len(steps) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return named["stop"]()

        return real(*args, **{**named, "stop": stop})

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "run_training", stopping)
        with pytest.raises(StoppedError, match="behind step 2"):
            train(config("stopped"))
    assert saved_step(tmp_path / "stopped") == 2
    train(config("stopped"))
    whole, stopped = (arrays_of(tmp_path / name) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    for name in whole:
        assert whole[name].tobytes() == stopped[name].tobytes(), name
    ends = [entry["step"] for entry in read_metrics(tmp_path / "stopped") if entry["part"] == "end"]
    assert ends == [1, max(ends)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_command_saves_a_checkpoint_and_says_so(tiny_dataset, tmp_path, workers):
    settings = {**TINY_SETTINGS, "data.path": str(tiny_dataset), "run.path": str(tmp_path / "run")}
    settings |= {"train.num_workers": workers, "train.epochs": 400, "train.checkpoint_every": 400}
    settings |= {"train.validate_every": 400}
    words = [word for name, value in settings.items() for word in (f"--{name}", _typed(value))]
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, str(driver), "train", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        seen = ""
        while workers == 0 and "in step 1" not in seen:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()
            seen += line
        while workers and not list((tmp_path / "run" / "starts").glob("*.json")):
            time.sleep(0.2)
            assert process.poll() is None
        if workers:
            time.sleep(3)  # shards or workers are being started
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == EXIT_STATUS, (out, err)
    assert saved_step(tmp_path / "run") >= 1
    assert f"behind step {saved_step(tmp_path / 'run')}" in err and "goes on from there" in err
    assert "Traceback" not in err
    assert (tmp_path / "run" / "run-report.md").is_file()


def _typed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
