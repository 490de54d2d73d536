"""The fold fingerprint depends on what the fold does, and on nothing else."""

import inspect

import pytest

from domain import errors
from domain.thread import evolve, evolve_turn, state, title
from infrastructure import fingerprint
from infrastructure.fingerprint import fingerprint_of, fold_fingerprint

EVOLVE, TURN, STATE, TITLE, ERRORS = map(inspect.getsource, (evolve, evolve_turn, state, title, errors))
TODAY = fingerprint_of([EVOLVE], [TURN, STATE, TITLE, ERRORS])


def test_comments_docstrings_annotations_and_imports_do_not_change_it() -> None:
    described = EVOLVE.replace("\n\n\ndef ", "\n\n\n# Moved here.\ndef ").replace('"""', '"""Otherwise: ', 1)
    described = described.replace("state: State", "state: Any").replace(") -> State:", ") -> Any:")
    assert described.count("Any") > 2
    described = "import math\nfrom domain.elsewhere import other\n" + described
    assert fingerprint_of([described], [TURN, STATE, TITLE, ERRORS]) == TODAY


def test_moving_definitions_and_modules_does_not_change_it() -> None:
    *rest, last = ["\n\n" + part for part in TURN.split("\n\n\n")]
    assert last.lstrip().startswith("def ")
    assert fingerprint_of([EVOLVE], ["".join(rest), ERRORS, TITLE, STATE + last]) == TODAY


def test_definitions_that_the_fold_does_not_use_do_not_count() -> None:
    more = ERRORS + "\n\n\nclass Unheard(ThreadfoldError):\n    pass\n"
    assert fingerprint_of([EVOLVE], [TURN, STATE, TITLE, more]) == TODAY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Version(state.version + 1)", "Version(state.version + 2)"),
        ("case events.ToolSucceeded() | events.ToolFailed()", "case events.ToolFailed()"),
        ("MAX_TITLE_CHARACTERS = 80", "MAX_TITLE_CHARACTERS = 81"),
        ("if call.version == event.call", "if call.version != event.call"),
        ("    partial: bool = False\n", "    partial: bool = True\n"),
    ],
)
def test_a_change_of_the_fold_changes_it(before: str, after: str) -> None:
    sources = [EVOLVE, TURN, STATE, TITLE]
    changed = [source.replace(before, after, 1) for source in sources]
    assert changed != sources, "this is not in the fold"
    assert fingerprint_of(changed[:1], [*changed[1:], ERRORS]) != TODAY


@pytest.mark.parametrize("module", ["domain.thread.events", "domain.models.chat", "domain.json", "domain.windows"])
def test_all_that_the_fold_imports_may_belong_to_it(module: str) -> None:
    _, others = fingerprint._modules()
    assert module in others
    assert not [name for name in others if name.startswith(("domain.application", "domain.agents", "domain.prompt"))]


def test_it_is_short_and_the_same_each_time() -> None:
    once = fold_fingerprint()
    fold_fingerprint.cache_clear()
    assert (fold_fingerprint(), len(once)) == (once, 16)
