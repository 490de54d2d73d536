"""What the docs list is what there is."""

import re
from pathlib import Path

import pytest

from api.app import create_app
from domain.thread.events import EVENTS
from infrastructure.settings import Settings
from projections.registry import PROJECTIONS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *ROOT.glob("*.md"),
    *(page for page in DOCS.rglob("*.md") if page.parent.name != "decisions"),
    *(ROOT / "examples").rglob("*.md"),
]
OURS = r"(?:api|benchmarks|docs|domain|examples|infrastructure|migrations|projections|tests|threadfold)"


def test_every_event_is_described_with_its_fields() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| [^|]+ \| (.+) \|$", (DOCS / "log.md").read_text(), re.MULTILINE)
    fields = {name: re.findall(r"\b[a-z]\w+", " ".join(re.findall(r"`([^`]+)`", payload))) for name, payload in rows}
    described = {name: set(names) for name, names in fields.items()}
    assert described == {event.__name__: set(event.__struct_fields__) for event in EVENTS}


def test_every_path_is_described() -> None:
    page = (DOCS / "http.md").read_text()
    described = set(re.findall(r"`(/(?:v1|health|metrics)[\w/{}]*)`", page))
    app = create_app(Settings(_env_file=None, database_url="memory://"))  # type: ignore[call-arg]
    served = {re.sub(r"{(\w+?)(_id)?:str}", r"{\1}", route.path).replace("{thread}", "{id}") for route in app.routes}
    assert described == {path for path in served if not path.startswith("/schema")}


def test_every_view_for_reports_is_listed_with_its_columns() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", (DOCS / "read-models.md").read_text(), re.MULTILINE)
    listed = {view: re.findall(r"`(\w+)`", columns) for view, columns in rows}

    assert listed == {
        table.name: [column.name for column in table.public] + [derived.name for derived in table.derived]
        for projection in PROJECTIONS
        for table in projection.tables
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_or_links_to_exist(page: Path) -> None:
    text = page.read_text()
    named = {ROOT / path for path in re.findall(rf"`({OURS}/[\w/.-]*)`", text)}
    linked = {page.parent / path for path in re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)", text)}
    assert [str(path) for path in sorted(named | linked) if not path.exists() and "results" not in path.parts] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_that_a_page_links_to_exist(page: Path) -> None:
    for path, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / path if path else page).read_text(), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings}, (path, heading)


def test_the_glossary_is_sorted_and_each_term_is_a_line() -> None:
    terms = re.findall(r"^\| ([\w -]+) \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) == len(set(terms)) >= 30
