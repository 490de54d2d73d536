"""`look_up`: full-text search over a folder of Markdown files.

SQLite's FTS5 does the search: it stems, ranks by BM25, cuts snippets, and comes with Python. The index is in memory.
Before each search, changed files are read again.
"""

import asyncio
import os
import re
import sqlite3
import stat
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from domain.agents.tools import Tool, tool
from domain.errors import ToolError
from domain.json import storable_text

TIMEOUT = 10.0
RESULTS = 3
MAX_FILES = 2_000
MAX_FILE_BYTES = 1024 * 1024
MAX_WORDS = 32
MAX_QUERY = 1_000
"""Characters of a query that are used. The index treats `a_b_c` as a phrase of three words, and long ones are slow."""

MAX_WHOLE_SECTION_CHARACTERS = 800
"""Characters of a section that is returned as a whole; of a longer one, a snippet is returned."""

_HEADING = re.compile(r" {0,3}#{1,6}\s++(.*)")
_AFTER_HEADING = "# \t"
_FENCE = re.compile(r" {0,3}(```|~~~)")

CREATE = "CREATE VIRTUAL TABLE sections USING fts5(file UNINDEXED, heading, text, tokenize = 'porter unicode61')"
INSERT = "INSERT INTO sections (file, heading, text) VALUES (?, ?, ?)"
FORGET = "DELETE FROM sections WHERE file = ?"
# A word in the heading weighs as much as three in the text. The rowid makes the order of ties stable.
SEARCH = """
SELECT file, heading,
       CASE WHEN length(text) <= :whole THEN text ELSE snippet(sections, 2, '', '', '…', 64) END
FROM sections
WHERE sections MATCH :words
ORDER BY bm25(sections, 0.0, 3.0, 1.0), rowid
LIMIT :limit
"""


@dataclass(frozen=True)
class Section:
    """A part of a file, from its heading to the next."""

    file: str
    heading: str
    text: str


def knowledge_tool(folder: Path) -> Tool:
    """Return the tool. The folder may be created after this call."""
    index = KnowledgeIndex(folder)

    @tool(timeout=TIMEOUT, idempotent=True)
    async def look_up(query: Annotated[str, Field(description="A few words to search for")]) -> str | list[Section]:
        """Search the documents for a few words and return the sections that fit best."""
        found = await asyncio.to_thread(index.search, query)
        return found or "Nothing in the documents fits these words."

    return look_up


class KnowledgeIndex:
    """The sections of all Markdown files below a folder. Searches block, one at a time: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[int, int]] = {}
        self._database: sqlite3.Connection | None = None

    def search(self, query: str, limit: int = RESULTS) -> list[Section]:
        """Return the best sections for a query's words, best first."""
        words = re.findall(r"\w+", storable_text(query[:MAX_QUERY]))[:MAX_WORDS]
        with self._lock:
            database = self._refreshed()
            if not words:
                return []
            asked = {
                "words": " OR ".join(f'"{word}"' for word in words),
                "whole": MAX_WHOLE_SECTION_CHARACTERS,
                "limit": limit,
            }
            return [Section(*row) for row in database.execute(SEARCH, asked)]

    def _refreshed(self) -> sqlite3.Connection:
        database = self._database or self._opened()
        present = dict(_files(self._folder))
        stale = [path for path, version in self._seen.items() if present.get(path) != version]
        with database:  # one transaction
            for path in stale:
                database.execute(FORGET, (self._name(path),))
                del self._seen[path]
            for path, version in sorted(present.items()):
                if path not in self._seen:
                    rows = [(self._name(path), heading, text) for heading, text in sections(_read(path))]
                    database.executemany(INSERT, rows)
                    self._seen[path] = version
        return database

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(":memory:", check_same_thread=False)  # guarded by the lock
        weakref.finalize(self, database.close)
        try:
            database.execute(CREATE)
        except sqlite3.OperationalError as error:
            raise ToolError("This Python's SQLite has no full-text search (FTS5).") from error
        self._database = database
        return database

    def _name(self, path: Path) -> str:
        return storable_text(path.relative_to(self._folder).as_posix())


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Split a Markdown text at its headings, except for those in code blocks."""
    found, fence = [("", list[str]())], ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if mark and fence in {"", mark[1]}:
            fence = "" if fence else mark[1]
        title = None if fence else _HEADING.match(line)
        if title:
            found.append((title[1].rstrip(_AFTER_HEADING), []))
        else:
            found[-1][1].append(line)
    for heading, lines in found:
        section = "\n".join(lines).strip()
        if heading or section:
            yield heading, section


def _files(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Yield the Markdown files with their time and size. Links that lead out of the folder are skipped."""
    if not folder.is_dir():
        raise ToolError("There are no documents to look anything up in.")
    root, count = folder.resolve(), 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names) if name.lower().endswith(".md")):
            try:
                status = path.stat()
                outside = not path.resolve().is_relative_to(root)
            except OSError:
                continue  # deleted meanwhile, or a broken link
            if outside or not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
                continue
            count += 1
            if count > MAX_FILES:
                return
            yield path, (status.st_mtime_ns, status.st_size)


def _read(path: Path) -> str:
    try:
        return storable_text(path.read_bytes()[:MAX_FILE_BYTES].decode("utf-8", "replace"))
    except OSError:
        return ""  # deleted meanwhile; the next search will not find it
