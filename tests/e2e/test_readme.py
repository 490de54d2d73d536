"""README's examples, typed as they stand there, give the answers that are printed there."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.server_process import threadfold

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
AGENTS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FILES = ("desk.py", "support.py")
FIRST_SCREEN = (50, 100)
"""Lines, and characters of each."""

CUT = "..."
"""Stands in a printed answer for what is left out."""

TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\.\.\.|[{}\[\],:]|[^\s{}\[\],:"]+')
CHANGING = [
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>"),
    (r"\b(\d+)-[0-9a-f]{8}\b(?!-)", r"\1-<hash>"),
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f-]{17}", "<turn>"),
]
"""What differs from one run to the next: times, the hashes that cover them, and ids that the server makes."""


def commands() -> list[tuple[str, str]]:
    """Each command of the README with the answer that is printed below it."""
    blocks = [part.split("\n", 1) for block in CONSOLE for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, answer.strip()) for command, answer in blocks]


def steady(text: str) -> str:
    for pattern, name in CHANGING:
        text = re.sub(pattern, name, text)
    return text


async def test_every_line_of_the_readme_gives_the_answer_printed_there(tmp_path: Path) -> None:
    for name, source in zip(FILES, AGENTS, strict=True):
        (tmp_path / name).write_text(source)
    agents = ",".join(str(tmp_path / name) for name in FILES)
    replaced: dict[str, str] = {}
    async with threadfold(tmp_path, AGENTS=agents) as server:
        settings = {"AGENTS": agents, "DATABASE_URL": "", "DATA_DIR": str(tmp_path / "data")}
        environment = {**os.environ, **settings}
        environment.pop("COLUMNS", None)  # xdist sets it, and tables would be cut to it
        for command, printed in commands():
            if command.endswith(" chat"):
                continue  # it waits for input
            if variable := re.fullmatch(r"([A-Z]+)=(\S+)", command):
                environment[variable[1]] = variable[2]
                continue
            typed = command.replace("localhost:8000", server.url.removeprefix("http://"))
            typed = typed.replace(".venv/bin/threadfold", f"{sys.executable} -m api")
            for theirs, ours in replaced.items():
                typed = typed.replace(theirs, ours)
            status, answer = await shell(typed, environment)
            assert status == 0, f"{typed}\n{answer}"
            if printed.startswith("{"):
                check(uncut(printed), json.loads(answer), typed)
                replaced.update(named_by_the_server(uncut(printed), json.loads(answer)))
            elif printed:
                pattern = re.sub(r"(\\ )?(\\\.){3}", ".*", re.escape(steady(printed)))
                assert re.fullmatch(pattern, steady(answer.strip()), re.DOTALL), f"{typed}\n{answer}"


def uncut(printed: str) -> Any:
    """Read a printed answer. What is left out is an item `...` of its array, or a member `...` of its object."""
    written, open_brackets = [], []
    for token in TOKEN.findall(printed):
        if token in "{[":
            open_brackets.append(token)
        elif token in "}]":
            open_brackets.pop()
        cut = f'"{CUT}": 0' if open_brackets and open_brackets[-1] == "{" else f'"{CUT}"'
        written.append(cut if token == CUT else token)
    return json.loads("".join(written))


def check(printed: Any, given: Any, where: str) -> None:
    """Hold an answer against the printed one: nothing that is not cut may be missing or differ."""
    match printed, given:
        case dict(), dict():
            shown = printed.keys() - {CUT}
            assert shown <= given.keys() if CUT in printed else shown == given.keys(), where
            for name in shown:
                check(printed[name], given[name], f"{where}: {name}")
        case list(), list():
            cut = printed.index(CUT) if CUT in printed else len(printed)
            before, after = printed[:cut], printed[cut + 1 :]
            assert len(before) + len(after) <= len(given) if CUT in printed else len(printed) == len(given), where
            for one, other in [*zip(before, given, strict=False), *zip(after, given[-len(after) :], strict=False)]:
                check(one, other, where)
        case _:
            assert steady(json.dumps(given)) == steady(json.dumps(printed)), where


def named_by_the_server(printed: Any, given: Any) -> Iterator[tuple[str, str]]:
    """The README quotes checkpoints and turns; those of this run take their place in later lines."""
    for name in ("checkpoint", "turn_id"):
        if isinstance(printed, dict) and name in printed:
            yield printed[name], given[name]


async def shell(command: str, environment: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=ROOT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_what_threadfold_is_and_guarantees_fits_the_first_screen() -> None:
    first, _, _ = README.partition("\n## ")
    lines = first.splitlines()
    assert len(lines) <= FIRST_SCREEN[0]
    assert max(map(len, lines)) <= FIRST_SCREEN[1]


def test_the_first_agent_has_ten_lines_and_one_import() -> None:
    agent, _ = AGENTS
    lines = [line for line in agent.splitlines() if line.strip()]
    assert len(lines) <= 10
    assert [line for line in lines if "import" in line] == ["from threadfold import assistant, tool"]


def test_the_example_of_a_graph_is_short() -> None:
    _, graph = AGENTS
    assert len([line for line in graph.splitlines() if line.strip()]) < 40
