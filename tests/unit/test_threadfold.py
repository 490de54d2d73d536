"""The package that authors import: all of it is documented, and examples and docs need nothing else of ours."""

import ast
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import threadfold

ROOT = Path(__file__).parents[2]
OURS = {"api", "benchmarks", "domain", "infrastructure", "migrations", "projections", "tests"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def imported(source: str) -> Iterator[str]:
    """Names the top-level packages that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_every_export_is_in_the_table_of_the_package() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", threadfold.__doc__ or "", re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(threadfold.__all__)


@pytest.mark.parametrize("name", threadfold.__all__)
def test_classes_and_functions_have_docstrings_of_their_own(name: str) -> None:
    exported = getattr(threadfold, name)
    if isinstance(exported, type | types.FunctionType):
        assert exported.__doc__
        assert not isinstance(exported, type) or "__doc__" in vars(exported)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_in_the_docs_imports_ours_from_the_package_for_authors_only(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        assert not OURS & set(imported(block)), block


def test_an_agent_can_be_loaded_where_a_folder_has_the_name_of_the_package(tmp_path: Path) -> None:
    """The console script starts `python -P -m api` with the checkout on PYTHONPATH, from any folder."""
    (tmp_path / "threadfold").mkdir()
    (tmp_path / "desk.py").write_text("from threadfold import assistant\n\nagent = assistant('desk')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AGENTS": "desk:agent", "DATABASE_URL": "memory://"}
    command = [sys.executable, "-P", "-m", "api", "graph", "desk", "--mermaid"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generate_response" in done.stdout
