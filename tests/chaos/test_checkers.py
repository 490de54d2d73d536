"""What the runs of `make chaos` count faults with: that nothing is overlooked, and nothing made up."""

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from tests.chaos import containment, database_faults, outages, rolling, villain
from tests.chaos.client import longest_gap
from tests.chaos.effects import EFFECTS, Effect, effect, read_effects, repeated
from tests.chaos.ends import Recorded


def done(kind: str, key: str) -> Effect:
    return Effect(kind, key, 1, 0.0)


def test_effects_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "effects.jsonl"
    assert read_effects(path) == []
    monkeypatch.setenv(EFFECTS, str(path))
    for key in ("a", "b", "a"):
        effect("pay", key)
    assert [(one.kind, one.key) for one in read_effects(path)] == [("pay", "a"), ("pay", "b"), ("pay", "a")]
    assert repeated(read_effects(path), "pay") == ["pay a was done 2 times"]
    assert repeated(read_effects(path), "item") == []


def test_silence_is_the_longest_time_without_an_answer() -> None:
    assert longest_gap([]) == 0
    assert longest_gap([(0, True), (1, True), (2, False), (3, False), (5, True), (6, True)]) == 4
    assert longest_gap([(0, True), (1, False), (9, False)]) == 9, "until the last question, if none was answered since"


def test_an_outcome_that_was_known_must_be_stored() -> None:
    stored = Recorded(7, "ToolSucceeded", {"content": "paid 5"})
    assert outages.lost([done("pay begins", "a"), done("pay", "a")], [stored]) == []
    assert outages.lost([done("pay begins", "a"), done("pay", "a")], []) == [
        "1 tools have paid, and 0 outcomes are in the log"
    ]


@pytest.mark.parametrize(
    "effects",
    [
        [done("item", "a"), done("item", "a")],
        [done("pay begins", "a"), done("pay begins", "a")],
        [done("pay is cancelled", "a")],
    ],
)
def test_what_is_done_twice_or_broken_off_is_a_fault(effects: list[Effect]) -> None:
    assert len(outages.lost(effects, [])) == 1


def test_an_unknown_outcome_is_a_fault_where_no_process_dies() -> None:
    assert len(outages.lost([], [Recorded(7, "ToolOutcomeUnknown", {"call": 5})])) == 1


def test_a_seed_always_does_the_same_and_a_row_of_them_does_everything() -> None:
    plans = [containment.plan_of(seed) for seed in range(len(villain.ACTS))]
    assert plans == [containment.plan_of(seed) for seed in range(len(villain.ACTS))]
    acts = {villain.parted(text)[0] for plan in plans for _, text in plan.villains}
    assert acts == set(villain.ACTS)
    assert all(1 <= len(plan.villains) <= 3 and 10 <= len(plan.innocents) <= 20 for plan in plans)


@pytest.mark.parametrize("act", villain.ACTS)
def test_everything_can_be_done_somewhere(act: str) -> None:
    assert any(villain.fits(act, place) for place in villain.PLACES)


def test_faults_of_integrity_and_of_data_are_not_injected() -> None:
    assert not [state for state in database_faults.SQLSTATES if state[:2] in {"22", "23"}]
    assert len(set(database_faults.SQLSTATES)) == len(database_faults.SQLSTATES)


def test_a_turn_waits_only_while_a_process_knows_its_agent(tmp_path: Path) -> None:
    report = rolling.Report(1, "test")
    past: list[tuple[Sequence[str], float, float]] = [
        (("a", "b"), 0.0, 10.0),
        (("a", "b"), 5.0, 12.0),
        (("a", "c"), 8.0, 30.0),
        (("b",), 20.0, 25.0),
    ]
    deployment = rolling.Deployment(tmp_path / str(uuid4()), {}, report, past=past)
    assert deployment.known("b", 4, 28) == 8 + 5
    assert deployment.known("c", 0, 28) == 20
    assert deployment.known("d", 0, 28) == 0
