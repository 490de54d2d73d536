import pathlib

import pytest

from infrastructure.settings import CHECKOUT, BadSetting, Settings, load_settings

NO_FILE = pathlib.Path("/nonexistent/.env")


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


def _refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting) as caught:
        load_settings(NO_FILE)
    return str(caught.value)


def test_without_any_setting_the_defaults_hold() -> None:
    settings = load_settings(NO_FILE)

    assert settings.database_url is None
    assert settings.llm_endpoint is None
    assert settings.data_dir == CHECKOUT / ".data"
    assert settings.knowledge_dir == CHECKOUT / "docs"
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.agents == ()


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=9001\nMAX_CONNECTIONS=7\n", encoding="utf-8")
    monkeypatch.setenv("PORT", "9002")

    settings = load_settings(file)

    assert (settings.port, settings.max_connections, settings.snapshot_every) == (9002, 7, 250)


def test_unknown_keys_in_the_file_are_ignored(tmp_path: pathlib.Path) -> None:
    file = tmp_path / ".env"
    file.write_text("SOMETHING_ELSE=1\nPORT=9001\n", encoding="utf-8")

    assert load_settings(file).port == 9001


def test_an_empty_value_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PORT", "")

    assert load_settings(NO_FILE).database_url is None
    assert load_settings(NO_FILE).port == 8000


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("memory://", "memory://"),
        ("postgresql://u:p@h:5433/d?host=/run/x", "postgresql://u:p@h:5433/d?host=/run/x"),
        ("postgres://h/d", "postgresql://h/d"),
        ("postgresql+asyncpg://h/d", "postgresql://h/d"),
    ],
)
def test_database_urls_are_taken_in_the_usual_spellings(
    monkeypatch: pytest.MonkeyPatch, given: str, taken: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", given)

    assert load_settings(NO_FILE).database_url == taken


def test_agents_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTS", "my_agents:support, shop.agents:sales,./desk.py, ../shop/till.py:agent")

    expected = ("my_agents:support", "shop.agents:sales", "./desk.py", "../shop/till.py:agent")
    assert load_settings(NO_FILE).agents == expected


def test_an_absolute_folder_stays_and_a_relative_one_starts_at_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KNOWLEDGE_DIR", str(tmp_path))
    monkeypatch.setenv("DATA_DIR", "here")

    settings = load_settings(NO_FILE)

    assert settings.knowledge_dir == tmp_path
    assert settings.data_dir == CHECKOUT / "here"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "eighty", "valid integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("MAX_CONNECTIONS", "0", "greater than or equal to 1"),
        ("CONTEXT_WINDOW_LIMIT", "-1", "greater than or equal to 256"),
        ("SNAPSHOT_EVERY", "often", "valid integer"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("DATABASE_URL", "mysql://h/d", "postgresql://"),
        ("DATABASE_URL", "postgresql://127.0.0.1:notaport/db", "a port up to 65535"),
        ("DATABASE_URL", "postgresql://127.0.0.1:65536/db", "a port up to 65535"),
        ("DATABASE_URL", "postgresql://[::1/db", "a host"),
        ("LLM_ENDPOINT", "ftp://h", "http://127.0.0.1:8080/v1"),
        ("LLM_ENDPOINT", "http://[::1", "a host"),
        ("LLM_ENDPOINT", "http://:80/v1", "http://127.0.0.1:8080/v1"),
        ("LLM_ENDPOINT", "http://127.0.0.1:99999/v1", "a port up to 65535"),
        ("AGENTS", "my_agents", "module:attribute"),
        ("AGENTS", "./desk:agent", "a file such as ./desk.py:agent"),
        ("AGENTS", "./desk.py:", "./desk.py"),
        ("AGENTS", "./desk.py:a-b", "not './desk.py:a-b'"),
        ("LLM_FIRST_BYTE_SECONDS", "0", "greater than 0"),
        ("LLM_TOTAL_SECONDS", "9999", "less than or equal to 3600"),
        ("LLM_OMIT", "seed", "expected some of stream_options, max_tokens"),
        ("KNOWLEDGE_DIR", "/nonexistent", "folder that exists"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_with_name_value_and_expectation(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    message = _refused(monkeypatch, name, value)

    assert message.startswith(f"{name}='{value}': ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://me:hunter2@h/d"),
        ("DATABASE_URL", "mysql://me:a@hunter2@h/d"),
        ("DATABASE_URL", "me:hunter2@h/d"),
        ("DATABASE_URL", "mysql://h/d?user=me&password=hunter2&x=1"),
        ("DATABASE_URL", "postgresql://me:hunter2@h:notaport/d"),
        ("DATABASE_URL", "postgresql://me:hunter2[@h/d"),
        ("DATABASE_URL", "postgresql://me:hunter2@h:/d"),
        ("LLM_ENDPOINT", "ftp://me:hunter2@h"),
        ("LLM_ENDPOINT", "http://me:hunter2@/v1"),
        ("LLM_ENDPOINT", "http://me:hunter2/x@h/v1"),
        ("LLM_API_KEY", "hunter2é"),
        ("LLM_API_KEY", "hunter2\nX-Other: header"),
    ],
)
def test_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    message = _refused(monkeypatch, name, value)

    assert message.startswith(f"{name}=(hidden): ")
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:123/ret@127.0.0.1:1/db",
        "postgresql://u:sek/ret@127.0.0.1:1/db",
        "postgresql://u:sek?ret@127.0.0.1:1/db",
        "postgresql://u:sek#ret@127.0.0.1:1/db",
        "postgresql://u:sek@ret@127.0.0.1:1/db",
        "postgresql://u:sek ret@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db#sekret",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    message = _refused(monkeypatch, "DATABASE_URL", url)

    assert message.startswith("DATABASE_URL=(hidden): ")
    assert "Percent-encode / ? # @ in the password" in message
    assert "ret" not in message.replace("secret", "")


def test_a_password_in_percent_encoding_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:1%2F%3F%23%402@h:1/d")

    assert load_settings(NO_FILE).database_url == "postgresql://u:1%2F%3F%23%402@h:1/d"


def test_printing_the_settings_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "hunter2")
    monkeypatch.setenv("LLM_ENDPOINT", "https://me:hunter2@h/v1/")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@h/d")

    settings = load_settings(NO_FILE)

    assert "hunter2" not in repr(settings)
    assert settings.llm_endpoint == "https://me:hunter2@h/v1"
    assert settings.llm_api_key is not None
    assert settings.llm_api_key.get_secret_value() == "hunter2"


def test_a_file_that_is_no_text_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"PORT=\xff\xfe\n")

    with pytest.raises(BadSetting, match=r"\.env cannot be read"):
        load_settings(file)
