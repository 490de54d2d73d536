"""README's examples, typed as they stand there, give the answers that are printed there."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.e2e.server_process import threadfold

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
AGENT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CHANGING = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "<time>"),
    (r"(\d+)-[0-9a-f]{8}\b(?!-)", r"\1-<hash>"),
    (r'"client":"curl/[^"]+"', r'"client":"curl/<version>"'),
    (r'"(turn_id|command)":"[0-9a-f-]{36}"', r'"\1":"<id>"'),
    (r"\b[\d,]+ ms\b", "<number> ms"),
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
    (tmp_path / "my_agents.py").write_text(AGENT[0])
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    checkpoints: dict[str, str] = {}
    async with threadfold(tmp_path, AGENTS="my_agents:support", PYTHONPATH=paths) as server:
        environment = {**os.environ, "DATA_DIR": str(tmp_path / "data"), "DATABASE_URL": ""}
        for command, expected in commands():
            if command.endswith(" chat"):
                continue  # waits for somebody to type
            typed = command.replace("localhost:8000", server.url.removeprefix("http://"))
            typed = typed.replace(".venv/bin/threadfold", f"{sys.executable} -m api")
            for printed, given in checkpoints.items():
                typed = typed.replace(printed, given)
            status, answer = await shell(typed, environment)
            assert status == 0, f"{typed}\n{answer}"
            if expected:
                assert steady(answer.strip()) == steady(expected), typed
                remember(checkpoints, expected, answer)
            if '"processing"' in expected:
                await asyncio.sleep(1)  # who reads the README takes longer


def remember(checkpoints: dict[str, str], printed: str, given: str) -> None:
    """The README quotes checkpoints and turns; those of this run take their place in later lines."""
    quoted, made = (re.findall(r'"(?:checkpoint|turn_id)":"([^"]+)"', text) for text in (printed, given))
    checkpoints.update(zip(quoted, made, strict=True))


async def shell(command: str, environment: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=ROOT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


def test_the_example_of_an_own_agent_is_short() -> None:
    (example,) = AGENT
    assert len([line for line in example.splitlines() if line.strip()]) < 40
