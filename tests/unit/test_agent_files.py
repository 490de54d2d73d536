"""Agents that `AGENTS` names by their file: where it is looked for, what it may import, and what errors say."""

import calendar
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infrastructure.agent_loader import load_agents
from infrastructure.settings import BadSetting

AGENT = "from domain.agents.assistant import assistant\n{name} = assistant({name!r})\n"


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a directory of the test's own, and forget afterwards what was imported from it."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in sys.modules.keys() - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["./desk.py:front", "desk.py:front", "./desk.py", "../{here}/desk.py", "{whole}:front"]
)
def test_a_path_starts_at_the_working_directory(tmp_path: Path, name: str) -> None:
    write(tmp_path / "desk.py", AGENT.format(name="front"))
    name = name.format(here=tmp_path.name, whole=tmp_path / "desk.py")
    assert [agent.name for agent in load_agents([name])] == ["front"]


def test_a_file_may_import_its_neighbours_which_may_import_it(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "names.py", "import counter\nNAME = 'till'\n")
    write(
        tmp_path / "shop" / "counter.py",
        "from names import NAME\nfrom domain.agents.assistant import assistant\nagent = assistant(NAME)\n",
    )
    assert [agent.name for agent in load_agents(["shop/counter.py"])] == ["till"]


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    write(tmp_path / "both.py", AGENT.format(name="one") + AGENT.format(name="two"))
    one, two, again = load_agents(["./both.py:one", "both:two", "./both.py:one"])
    assert (one.name, two.name) == ("one", "two")
    assert again is one


@pytest.mark.parametrize("name", ["api", "calendar", "threadfold"])
def test_a_module_name_that_is_taken_is_refused_with_what_to_write(tmp_path: Path, name: str) -> None:
    write(tmp_path / f"{name}.py", AGENT.format(name="desk"))
    with pytest.raises(
        BadSetting, match=rf"the name {name} belongs to .*; name the file instead, as in {name}.py:desk"
    ):
        load_agents([f"{name}:desk"])
    assert [agent.name for agent in load_agents([f"{name}.py:desk"])] == ["desk"]


def test_a_file_replaces_no_module_of_its_name(tmp_path: Path) -> None:
    write(tmp_path / "calendar.py", AGENT.format(name="dates"))
    first, second = load_agents(["./calendar.py", "./calendar.py"])
    assert first is second
    assert first.name == "dates"
    assert sys.modules["calendar"] is calendar


def test_files_of_one_name_are_different_agents(tmp_path: Path) -> None:
    for name in ("left", "right"):
        write(tmp_path / name / "agent.py", AGENT.format(name=name))
    assert [agent.name for agent in load_agents(["left/agent.py", "right/agent.py"])] == ["left", "right"]


def test_one_agent_under_two_names_is_one(tmp_path: Path) -> None:
    write(tmp_path / "desk.py", AGENT.format(name="desk") + "agent = desk\n")
    assert [agent.name for agent in load_agents(["./desk.py"])] == ["desk"]


@pytest.mark.parametrize(
    ("text", "attribute", "expected"),
    [
        (None, ":agent", "there is no file {file}"),
        ("x = 1\n", "", "{file} has no agent"),
        (AGENT.format(name="a") + AGENT.format(name="b"), "", "{file} has several agents; add one of :a, :b"),
        ("x = 1\n", ":agent", "AttributeError: module 'broken' has no attribute 'agent'"),
        ("agent = 7\n", ":agent", "this is int; expected an Agent"),
        ("def f():\n    return {}['x']\nagent = f()\n", ":agent", "KeyError: 'x' ({file}:2)"),
        ("agent = (\n", "", "SyntaxError: '(' was never closed ({file}:1)"),
        ("import nothing_like_it\n", "", "ModuleNotFoundError: No module named 'nothing_like_it' ({file}:1)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str | None, attribute: str, expected: str) -> None:
    file = tmp_path / "broken.py"
    if text is not None:
        write(file, text)
    with pytest.raises(BadSetting) as refused:
        load_agents([f"./broken.py{attribute}"])
    assert str(refused.value) == f"AGENTS=./broken.py{attribute}: {expected.format(file=file)}"
