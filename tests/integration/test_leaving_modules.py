"""A module in AGENTS that tries to end the process when it is imported is told of in one line, as other errors are."""

import sys
from pathlib import Path

import pytest

from infrastructure.agent_loader import load_agents
from infrastructure.settings import BadSetting
from tests.support.command import threadfold

MODULES = {
    "sys_exit": ("import sys\nsys.exit(3)", ": the module tried to end the process when it was imported"),
    "parsed": (
        "import argparse\nargparse.ArgumentParser(prog='mine').parse_args(['--wrong'])",
        "imported: mine: error: unrecognized arguments: --wrong",
    ),
    "interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt ("),
    "closed": ("raise GeneratorExit('x')", "GeneratorExit: x"),
    "odd": ("class Odd(BaseException): pass\nraise Odd('very\\nodd')", "Odd: very odd"),
    "wordless": (
        "class Bad(Exception):\n    def __str__(self): raise SystemExit\nraise Bad",
        "Bad: [its message cannot be read: __str__ raised SystemExit]",
    ),
    "lengthy": ("raise ValueError('x' * 1_000_000)", "ValueError: xxx"),
    "attribute": ("def __getattr__(name): raise SystemExit(name)", "SystemExit: agent"),
}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, expected = MODULES[name]
    (tmp_path / f"leaving_{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadSetting) as refused:
        load_agents([f"leaving_{name}:agent"])
    text = str(refused.value)
    assert text.startswith(f"AGENTS=leaving_{name}:agent: ")
    assert expected in text
    assert "\n" not in text
    assert len(text) < 2_000


async def test_the_command_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text(MODULES["parsed"][0])
    done = await threadfold("serve", database_url="memory://", agents="leaving:agent", pythonpath=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: AGENTS=leaving:agent: SystemExit: 2 (")
    assert done.err.count("\n") == 1


def test_what_a_module_writes_and_logs_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talking.py").write_text(
        "import sys\n"
        "from domain.agents.assistant import assistant\n"
        "print('hello', file=sys.stderr)\n"
        "log = sys.stderr\n"  # as a handler of a log does
        "agent = assistant('talking')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (agent,) = load_agents(["talking:agent"])
    assert agent.name == "talking"
    sys.modules["talking"].log.write("later")
    assert capsys.readouterr().err == "hello\nlater"
