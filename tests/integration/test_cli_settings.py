"""Bad settings, as the command line tells of them."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import threadfold

NOWHERE = "postgresql://someone:s3cret@127.0.0.1:1/nothing"
UNKNOWN = "018f0000-0000-7000-8000-000000000000"


async def test_a_bad_setting_is_told_in_one_line_and_ends_with_two() -> None:
    done = await threadfold("graph", port="eighty")

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: PORT='eighty': ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://127.0.0.1:notaport/db"),
        ("LLM_ENDPOINT", "http://user:s3cret@/v1"),
        ("LLM_ENDPOINT", "http://xn--zzzzzzzzzz\u00e9/v1"),
        ("LLM_API_KEY", "s3cr\u00e9t"),
    ],
)
async def test_addresses_and_keys_that_cannot_be_used_are_bad_settings_too(name: str, value: str) -> None:
    settings: dict[str, Any] = {"llm_endpoint": "http://127.0.0.1/v1", name.lower(): value}
    done = await threadfold("graph", **settings)

    assert (done.status, done.out) == (2, "")
    assert re.match(f"Error: {name}[=:]", done.err)
    assert done.err.count("\n") == 1
    assert "s3cr" not in done.err


async def test_models_outside_are_refused_where_nothing_may_leave() -> None:
    done = await threadfold("graph", llm_endpoint="https://me:s3cret@api.example.com/v1", air_gapped="true")

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: AIR_GAPPED=true: LLM_ENDPOINT: 'api.example.com' may be outside. ")
    assert done.err.count("\n") == 1
    assert "s3cr" not in done.err


async def test_embeddings_outside_are_refused_where_nothing_may_leave() -> None:
    done = await threadfold("graph", embedding_endpoint="https://me:s3cret@api.example.com/v1", air_gapped="true")

    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("Error: AIR_GAPPED=true: EMBEDDING_ENDPOINT: 'api.example.com' may be outside. ")
    assert "s3cr" not in done.err


async def test_a_file_of_models_is_read_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('chain = ["large"]\n[providers]\n[models.large]\nprovider = "cloud"\nmodel = "m"\n')
    done = await threadfold("graph", models=file)

    assert (done.status, done.out) == (2, "")
    assert done.err == (
        f"Error: MODELS={file}: models.large.provider: unknown provider 'cloud'; known providers: none\n"
    )


async def test_agents_may_ask_only_for_models_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom domain.agents.assistant import assistant\n"
        "from domain.agents.graph import END, Graph\nplain = assistant()\n"
        "agent = replace(plain, graph=replace(plain.graph, name='mine'), model='gpt-9')\n"
    )
    given: dict[str, Any] = {"agents": "mine:agent", "pythonpath": tmp_path}
    assert (await threadfold("graph", **given)).status == 0

    done = await threadfold("graph", models="docs/models.example.toml", cloud_key="k", **given)

    assert done.status == 2
    assert "agent 'mine' names unknown model 'gpt-9'; known models: large, small, local, rules" in done.err


OWN = "from domain.agents.agent import Agent\nfrom domain.agents.graph import END, Graph, Node\n"
BROKEN = {
    "syntax": ("agent = (\n", "SyntaxError: '(' was never closed (.../mine.py:1)"),
    "raises": ("def f():\n    return {}['x']\nagent = f()\n", "KeyError: 'x' (.../mine.py:2)"),
    "exits": ("import sys\nsys.exit('no')\n", "SystemExit: no (.../mine.py:2)"),
    "graph": (OWN + "agent = Agent(Graph('mine', start='a', nodes=[], edges={}))\n", "InvalidGraph: mine: "),
    "import": ("import nothing_like_it\n", "ModuleNotFoundError: No module named 'nothing_like_it' (.../mine.py:1)"),
    "name": ("", "AttributeError: module 'mine' has no attribute 'agent'"),
    "kind": ("agent = 7\n", "this is int; expected an Agent"),
    "taken": (
        "from domain.agents.assistant import assistant\nagent = assistant()\n",
        "there is another agent named 'assistant'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_own_agents_that_cannot_be_had_are_bad_settings_with_a_place(case: str, tmp_path: Path) -> None:
    text, expected = BROKEN[case]
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")

    done = await threadfold("graph", agents="mine:agent", pythonpath=tmp_path)

    assert (done.status, done.out) == (2, "")
    assert done.err.replace(str(tmp_path), "...").startswith(f"Error: AGENTS=mine:agent: {expected}")
    assert done.err.count("\n") == 1
