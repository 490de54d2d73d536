"""What the docs list is what there is."""

import re
from pathlib import Path

from api.app import create_app
from domain.thread.events import EVENTS
from infrastructure.settings import Settings
from projections.registry import PROJECTIONS

DOCS = Path(__file__).parents[2] / "docs"


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
