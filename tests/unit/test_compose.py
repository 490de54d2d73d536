"""What the deployment files say is what the settings are."""

import json
import pathlib
import re
from typing import Any

import dotenv
import pytest
import yaml

from api.cli.supervise import STOP_LIMIT_S
from infrastructure.settings import Settings, load_settings

CHECKOUT = pathlib.Path(__file__).parents[2]
PASSWORD = "${POSTGRES_PASSWORD:?is not set. Choose one in .env, see docker-compose.yml}"
"""What makes Compose refuse to start without a password, with this reason."""
FIELDS = {name.upper() for name in Settings.model_fields}


@pytest.fixture(name="compose")
def _compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8"))
    return content


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)


def _default(value: str) -> str:
    """What Compose puts in for `${NAME:-default}` when NAME is unset."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace(PASSWORD, "chosen")


def test_the_example_lists_each_setting_once() -> None:
    text = (CHECKOUT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^(\w+)=", text, re.MULTILINE)

    assert sorted(names) == sorted(FIELDS)


def test_each_setting_in_the_example_has_a_comment_of_one_line() -> None:
    text = (CHECKOUT / ".env.example").read_text(encoding="utf-8")
    header, _, settings = text.partition("\n\n")

    assert header.startswith("#")
    assert re.fullmatch(r"(?:# [^\n]+\n[A-Z_]+=[^\n]*\n)+", settings)


def test_the_example_has_the_defaults(tmp_path: pathlib.Path) -> None:
    assert load_settings(CHECKOUT / ".env.example") == load_settings(tmp_path / "none")


def test_the_app_is_told_nothing_that_is_no_setting(compose: dict[str, Any]) -> None:
    assert set(compose["services"]["app"]["environment"]) <= FIELDS


def test_the_apps_defaults_are_the_settings_own(compose: dict[str, Any], tmp_path: pathlib.Path) -> None:
    told = {name: _default(value) for name, value in compose["services"]["app"]["environment"].items()}
    chosen_here = {"DATABASE_URL", "HOST", "HOST_NAMES", "AUTH"}
    example = dotenv.dotenv_values(CHECKOUT / ".env.example")

    assert {name: value for name, value in told.items() if name not in chosen_here} == {
        name: example[name] for name in told if name not in chosen_here
    }
    file = tmp_path / ".env"
    file.write_text("\n".join(f"{name}={value}" for name, value in told.items()), encoding="utf-8")
    assert load_settings(file).database_url == "postgresql://threadfold:chosen@postgres:5432/threadfold"


def test_the_app_waits_for_a_healthy_database_of_the_same_name(compose: dict[str, Any]) -> None:
    services = compose["services"]
    database = services["postgres"]

    assert services["app"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert "pg_isready" in database["healthcheck"]["test"]
    assert database["environment"]["POSTGRES_DB"] == "threadfold"
    assert database["environment"]["POSTGRES_USER"] == "threadfold"


def test_the_image_has_a_parent_that_replaces_a_process_that_is_blocked() -> None:
    docker = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (\[.+\])$", docker, re.MULTILINE)

    assert json.loads(command) == ["python", "-m", "api", "serve", "--workers", "1"]


def test_the_app_has_the_time_that_a_stop_may_take(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["app"]["stop_grace_period"].removesuffix("s")) > STOP_LIMIT_S


def test_each_named_volume_is_declared_and_the_database_has_one_where_18_wants_it(compose: dict[str, Any]) -> None:
    used = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    sources = {volume.partition(":")[0] for volume in used}

    assert {source for source in sources if not source.startswith("./")} == set(compose["volumes"])
    assert "postgres:/var/lib/postgresql" in used


def test_own_agents_and_documents_reach_the_app_and_cannot_be_changed_by_it(compose: dict[str, Any]) -> None:
    app = compose["services"]["app"]

    assert {"AGENTS", "KNOWLEDGE_DIR"} <= set(app["environment"])
    assert app["volumes"] == ["./agents:/app/agents:ro"]


def test_the_local_model_starts_only_when_asked_for(compose: dict[str, Any]) -> None:
    assert compose["services"]["ollama"]["profiles"] == ["ollama"]


def test_the_image_copies_only_what_the_context_holds() -> None:
    docker = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    kept = {
        line[1:] for line in (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.MULTILINE) for source in line.split()
    }

    assert copied == kept
    assert all((CHECKOUT / source).exists() for source in copied)


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert "/tmp" in service["tmpfs"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
    assert {name for name, service in compose["services"].items() if "cap_add" in service} == {"postgres"}


def test_there_is_no_default_password(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == PASSWORD
    assert PASSWORD in services["app"]["environment"]["DATABASE_URL"]
    text = (CHECKOUT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "PASSWORD:-" not in text


def test_the_image_does_not_run_as_root() -> None:
    docker = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")

    assert re.findall(r"^USER (.+)$", docker, re.MULTILINE) == ["threadfold"]


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_the_pins_name_packages_and_hashes_and_no_index_or_machine(name: str) -> None:
    text = (CHECKOUT / "requirements" / name).read_text(encoding="utf-8")

    assert not re.search(r"^-", text, re.MULTILINE)
    assert "://" not in text
    assert all("==" in line for line in re.findall(r"^\w.*$", text, re.MULTILINE))


def test_what_is_installed_for_tests_is_at_the_versions_that_run() -> None:
    def pins(name: str) -> set[str]:
        text = (CHECKOUT / "requirements" / name).read_text(encoding="utf-8")
        return set(re.findall(r"^(\w\S+==[^\s;]+)", text, re.MULTILINE))

    assert pins("run.txt") <= pins("dev.txt")
