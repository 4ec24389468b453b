"""What a sweep tells Optuna and ASHA, without a cluster: what to try next, what to stop, also after an interruption."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from sweep_cases import SIGMA0, SPACE, K, settings, trial

from jr_dist.train.sweep import EPOCH, METRIC, Search, _asha, _Searcher
from jr_dist.train.sweep_space import Choice, key
from jr_dist.train.trials import RECORD, Record


@pytest.fixture
def config(tiny_dataset, tmp_path):
    return settings(tiny_dataset, tmp_path, train__epochs=9, sweep__grace_epochs=2, sweep__reduction=2)


def searcher(config, record: Record, *, space: Any = SPACE, trials: int = 20, waiting: Any = ()) -> _Searcher:
    return _Searcher(config, record, waiting, Search(space, trials), trials - len(record.searched))


def tried(proposals: _Searcher, count: int, value=lambda values: values[SIGMA0]) -> list[dict[str, Any]]:
    """What is proposed when each trial ends, with `value`, before the next one begins."""
    found = []
    for number in range(count):
        told: Any = proposals.suggest(f"tune-{number}")
        proposals.on_trial_complete(f"tune-{number}", {METRIC: value(told["values"])})
        found.append(told["values"])
    return found


def test_the_search_is_the_same_for_the_same_seed_and_finds_what_is_low(config, tmp_path):
    first = tried(searcher(config, Record(tmp_path / "a")), 20)
    assert first == tried(searcher(config, Record(tmp_path / "b")), 20)
    assert len({key(values) for values in first}) == 20
    late = [values[SIGMA0] for values in first[12:]]
    assert sum(late) / len(late) < 2 < sum(values[SIGMA0] for values in first[:6]) / 6, (
        "TPE has learned where it is low"
    )


def test_a_search_that_goes_on_knows_the_earlier_points_and_does_not_begin_again(config, tmp_path):
    record = Record(tmp_path / RECORD)
    begun = tried(searcher(config, record), 8)
    for each in list(record):
        record.change(each.name, state="complete", validations=((9.0, each.values[SIGMA0]),))
    again = searcher(config, Record.read(record.path))
    study = again._optuna._ot_study if again._optuna else None
    assert study is not None and [each.value for each in study.trials] == [values[SIGMA0] for values in begun]
    assert [each.params[SIGMA0] for each in study.trials] == [values[SIGMA0] for values in begun]
    further = tried(again, 3)
    assert not {key(values) for values in further} & {key(values) for values in begun}


def test_what_waits_comes_first_under_its_own_name(config, tmp_path):
    record = Record(tmp_path / RECORD)
    for each in (trial(0, 3.0, 2, 1.0), trial(1, 5.0, 4, 2.0, state="begun")):
        record.note(each)
    again = searcher(config, record, trials=3, waiting=[record["001"]])
    first, second = again.suggest("a"), again.suggest("b")
    assert isinstance(first, dict) and first == {"name": "001", "values": {SIGMA0: 5.0, K: 4}, "seed": 0}
    assert isinstance(second, dict) and second["name"] == "002"
    assert again.suggest("c") == Searcher.FINISHED
    assert record["001"].validations == ((1.0, 2.0),), "what it had is kept"


def test_a_finite_space_is_tried_whole_and_nothing_twice(config, tmp_path):
    space = {K: Choice((2, 4, 6)), "retrieval.loss": Choice(("l1", "cross_entropy"))}
    proposals = searcher(config, Record(tmp_path / RECORD), space=space, trials=50)
    found = tried(proposals, 6, value=lambda values: values[K])
    assert len({key(values) for values in found}) == 6
    assert proposals.suggest("one more") == Searcher.FINISHED


def test_a_failed_trial_says_nothing_of_its_values(config, tmp_path):
    proposals = searcher(config, Record(tmp_path / RECORD))
    for name, result in (("a", {METRIC: float("nan"), "failed": "it diverged"}), ("b", None), ("c", {METRIC: 2.0})):
        proposals.suggest(name)
        proposals.on_trial_complete(name, result, error=result is None)
    assert proposals._optuna is not None
    states = [each.state.name for each in proposals._optuna._ot_study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE"]


def as_tune_has_it(name: str) -> Any:
    return SimpleNamespace(trial_id=f"tune-{name}", config={"name": name})


def report(scheduler: Any, name: str, epoch: float, value: float, **more: Any) -> str:
    return scheduler.on_trial_result(None, as_tune_has_it(name), {EPOCH: epoch, METRIC: value, "last": False, **more})


def test_asha_stops_the_worse_ones_at_a_rung_and_never_before_the_grace_or_at_the_end(config, tmp_path):
    record = Record(tmp_path / RECORD)
    scheduler: Any = _asha(config, record)
    for number in range(4):
        record.note(trial(number, 1.0 + number, 2, state="begun"))
        scheduler.on_trial_add(None, as_tune_has_it(f"{number:03d}"))
    assert report(scheduler, "000", 2, 1.0) == TrialScheduler.CONTINUE
    assert report(scheduler, "001", 1, 9.0) == TrialScheduler.CONTINUE, "within the grace"
    assert report(scheduler, "001", 2, 9.0) == TrialScheduler.STOP
    assert report(scheduler, "002", 2, 0.5) == TrialScheduler.CONTINUE
    assert report(scheduler, "003", 9, 99.0, last=True) == TrialScheduler.CONTINUE, "it is at its end anyway"
    failed = {METRIC: float("nan"), "failed": "it diverged"}
    assert scheduler.on_trial_result(None, as_tune_has_it("000"), failed) == TrialScheduler.CONTINUE


def test_asha_compares_with_what_was_validated_before_an_interruption(config, tmp_path):
    record = Record(tmp_path / RECORD)
    for each in (trial(0, 1.0, 2, 2.0, 1.0), trial(1, 2.0, 2, 3.0, 2.0, 1.5, state="begun")):
        record.note(each)
    scheduler: Any = _asha(config, Record.read(record.path))
    fresh: Any = _asha(config, Record(tmp_path / "none"))
    record.note(trial(2, 3.0, 2, state="begun"))
    for each, name in ((scheduler, "001"), (scheduler, "002"), (fresh, "002")):
        each._record = record
        each.on_trial_add(None, as_tune_has_it(name))
    assert report(fresh, "002", 2, 5.0) == TrialScheduler.CONTINUE, "it would be the first there"
    assert report(scheduler, "002", 2, 5.0) == TrialScheduler.STOP
    assert report(scheduler, "001", 3, 9.0) == TrialScheduler.CONTINUE, "it has passed that rung before"


def test_without_room_between_the_rungs_nothing_is_stopped(tiny_dataset, tmp_path):
    config = settings(tiny_dataset, tmp_path, train__epochs=2, sweep__grace_epochs=2)
    assert type(_asha(config, Record(tmp_path / RECORD))) is FIFOScheduler
