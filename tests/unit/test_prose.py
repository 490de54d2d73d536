"""Prose names the component that acts, in plain English: the worst of the phrases that said otherwise stay away."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = (
    "api",
    "domain",
    "infrastructure",
    "migrations",
    "projections",
    "threadfold",
    "examples",
    "docs",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    ".env.example",
)
"""Product code and pages."""

EXEMPT = ("docs/decisions/", "domain/recall/function_words.py", "examples/airline/data/", "migrations/versions/")
"""Decisions and migrations are as they were made; the others are data."""

PHRASES = re.compile(
    r"""\b(?:
        whoever | whomever | anybody | everybody | (?<![`"'])(?:nobody | somebody)
      | anew | in\ vain | be\ it | at\ hand | as\ it\ stands | what\ is\ said
      | what\ (?:it|they|this|that)?\ ?comes?\ to
      | (?<![=`"'-])beside(?![`"'])
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""In quotes, `nobody` is a user of the system, and `beside` the value of the setting PROJECTIONS."""

TEXT = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def files() -> Iterator[Path]:
    """The checked files, without those that are exempt."""
    for path in map(ROOT.joinpath, TREE):
        found = [path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")]
        yield from (file for file in sorted(found) if not str(file.relative_to(ROOT)).startswith(EXEMPT))


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page; of a module the lines of its comments, docstrings and other strings."""
    text = file.read_text(encoding="utf-8")
    if not PHRASES.search(text):  # mostly; then the slow look at tokens is saved
        return
    if file.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in TEXT:
            yield from enumerate(token.string.splitlines(), token.start[0])


def test_prose_has_none_of_the_old_phrases() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files()
        for number, line in prose(file)
        if PHRASES.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["Whoever runs it", "built anew", "a process beside it", "what it comes to", "be it"])
def test_an_old_phrase_is_found(line: str) -> None:
    assert PHRASES.search(line)


@pytest.mark.parametrize(
    "line", ["PROJECTIONS=beside", 'Literal["beside", "inside"]', "besides", "renew", "maybe it is"]
)
def test_what_only_looks_like_one_is_not(line: str) -> None:
    assert not PHRASES.search(line)
