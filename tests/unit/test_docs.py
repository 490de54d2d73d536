"""What the docs list is what there is."""

import re
from pathlib import Path

from api.app import create_app
from domain.events import EVENTS
from infrastructure.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def test_every_event_is_described_with_its_fields() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| [^|]+ \| (.+) \|$", (DOCS / "log.md").read_text(), re.MULTILINE)
    described = {name: set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", payload)))) for name, payload in rows}
    described["ToolStarted"] -= {"ToolRequested"}
    assert described == {event.__name__: set(event.__struct_fields__) for event in EVENTS}


def test_every_path_is_described() -> None:
    page = (DOCS / "http.md").read_text()
    described = set(re.findall(r"`(/(?:v1|health)[\w/{}]*)`", page))
    app = create_app(Settings(_env_file=None, database_url="memory://"))  # type: ignore[call-arg]
    served = {route.path.replace("{thread_id:str}", "{id}").replace("{name:str}", "{name}") for route in app.routes}
    assert described == {path for path in served if not path.startswith("/schema")}
