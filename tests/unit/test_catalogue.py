"""The file of providers and models, and the settings that replace it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from domain.models.routing import ModelSpec, Rule, Situation, choose
from infrastructure.models.catalogue import Catalogue, load_catalogue, with_asked_for
from infrastructure.models.offline.model import OfflineModel
from infrastructure.models.openai.client import OpenAIChatModel
from infrastructure.models.openai.endpoints import TimeLimits
from infrastructure.models.providers import open_models
from infrastructure.settings import CHECKOUT, BadSetting, Settings, load_settings, variable
from tests.support.runtime import Words

FILE = """
chain = ["large", "small"]
[providers.cloud]
endpoint = "https://api.example.com/v1"
api_key_env = "CLOUD_KEY"
first_byte = 20
omit = ["temperature"]
[providers.local]
endpoint = "http://127.0.0.1:11434/v1"
[models.large]
provider = "cloud"
model = "gpt-4o"
context_window = 128000
max_answer = 4096
[models.small]
provider = "local"
model = "llama"
[[rules]]
use = "small"
strained = true
"""
KEYS = {"CLOUD_KEY": "hunter2"}


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*Settings.model_fields, "cloud_key"]:
        monkeypatch.delenv(name.upper(), raising=False)


def catalogue(folder: pathlib.Path, text: str = FILE, keys: Mapping[str, str] = KEYS) -> Catalogue:
    file = folder / "models.toml"
    file.write_text(text, encoding="utf-8")
    return load_catalogue(settings(models=file), keys.get)


class TestTheFile:
    def test_names_providers_models_and_rules(self, tmp_path: pathlib.Path) -> None:
        found = catalogue(tmp_path)

        assert found.policy.chain == ("large", "small")
        assert found.policy.models == {
            "large": ModelSpec("cloud", "gpt-4o", 128_000, 4096),
            "small": ModelSpec("local", "llama"),
        }
        assert found.policy.rules == (Rule("small", strained=True),)
        cloud, local = found.providers["cloud"], found.providers["local"]
        assert cloud.key is not None
        assert cloud.key.get_secret_value() == "hunter2"
        assert (cloud.limits.first_byte, cloud.limits.silence, cloud.omit) == (20, 60, ("temperature",))
        assert (local.endpoint, local.key) == ("http://127.0.0.1:11434/v1", None)
        assert "hunter2" not in repr(found)

    async def test_becomes_clients(self, tmp_path: pathlib.Path) -> None:
        models = open_models(catalogue(tmp_path), Words(), air_gapped=False)

        assert {name: type(model) for name, model in models.providers.items()} == dict.fromkeys(
            ("cloud", "local"), OpenAIChatModel
        )
        assert models.usual is models.providers["cloud"]
        await models.close()

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ('["large", "small"]', "[]", "chain: must name at least one model"),
            ('["large", "small"]', '["large", "large"]', "chain: must not name a model twice"),
            ('["large", "small"]', '["larg"]', "chain: unknown model 'larg'; known models: large, small"),
            ('["large", "small"]', '"large"', "chain: Expected array, got str"),
            ("chain =", "chains =", "unknown field chains"),
            ('chain = ["large", "small"]', "", "missing required field chain"),
            (
                'provider = "cloud"',
                'provider = "clod"',
                "models.large.provider: unknown provider 'clod'; known providers:",
            ),
            ('model = "llama"', "", "models.small: Object missing required field model"),
            ("context_window = 128000", "context_window = 0", "models.large.context_window: Expected int >= 1"),
            ("context_window = 128000", 'context_window = "128k"', "models.large.context_window: Expected int | null"),
            ('["temperature"]', '["seed"]', "providers.cloud.omit: expected some of stream_options, max_tokens"),
            ("first_byte = 20", "first_byte = 0", "providers.cloud.first_byte: Expected float > 0"),
            ("first_byte = 20", "api_key = 'sk-1'", "providers.cloud: Object contains unknown field api_key"),
            ('"CLOUD_KEY"', '"OTHER"', "providers.cloud.api_key_env: OTHER is neither in the environment nor in .env"),
            ('use = "small"', 'use = "tiny"', "rules.0.use: unknown model 'tiny'"),
            ("strained = true", "", "rules.0: must have a condition"),
            ("strained = true", "strained = 1", "rules.0.strained: Expected bool | null, got int"),
            ("strained = true", "strange = true", "rules.0: Object contains unknown field strange"),
            ("[models.small]", '[models."a\\nb"]', "models: invalid name 'a\\nb'"),
            ("[models.small]", "[models.small", "Expected ']'"),
        ],
    )
    def test_is_refused_by_name_and_field(self, tmp_path: pathlib.Path, old: str, new: str, told: str) -> None:
        assert old in FILE
        with pytest.raises(BadSetting) as caught:
            catalogue(tmp_path, FILE.replace(old, new))

        message = str(caught.value)
        assert message.startswith(f"MODELS={tmp_path / 'models.toml'}: ")
        assert told in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("endpoint", "key", "told"),
        [
            ("ftp://api.example.com", "k", "providers.cloud.endpoint: must be a URL"),
            ("https://me:hunter2@/v1", "k", "providers.cloud.endpoint: must be a URL"),
            ("https://h/v1", "hunter2\u00e9", "providers.cloud.api_key_env: CLOUD_KEY: must be printable ASCII"),
        ],
    )
    def test_may_name_what_cannot_be_used(self, tmp_path: pathlib.Path, endpoint: str, key: str, told: str) -> None:
        found = catalogue(tmp_path, FILE.replace("https://api.example.com/v1", endpoint), {"CLOUD_KEY": key})

        with pytest.raises(BadSetting) as caught:
            open_models(found, Words(), air_gapped=False)

        assert told in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_that_is_no_text_is_refused(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "models.toml").write_bytes(b"\xff\xfe")

        with pytest.raises(BadSetting, match=r"^MODELS=.*models\.toml: "):
            load_catalogue(settings(models=tmp_path / "models.toml"))

    def test_that_does_not_exist_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MODELS", "/nonexistent.toml")

        with pytest.raises(BadSetting, match=r"MODELS='/nonexistent\.toml': expected a file that exists"):
            load_settings(pathlib.Path("/nonexistent/.env"))

    async def test_of_the_docs_can_be_used(self) -> None:
        found = load_catalogue(settings(models=CHECKOUT / "docs" / "models.example.toml"), KEYS.get)
        models = open_models(found, Words(), air_gapped=False)

        assert found.policy.chain == ("large", "local", "rules")
        assert isinstance(models.providers["builtin"], OfflineModel)
        await models.close()

    def test_names_all_that_agents_may_ask_for(self, tmp_path: pathlib.Path) -> None:
        found = catalogue(tmp_path)

        assert with_asked_for(found, {"mine": "small", "other": None}) == found
        with pytest.raises(BadSetting, match=r"agent 'mine' names unknown model 'gpt-9'; known models: large, small"):
            with_asked_for(found, {"mine": "gpt-9"})


class TestWithoutAFile:
    def test_there_is_the_offline_model_only(self) -> None:
        found = load_catalogue(settings())
        models = open_models(found, Words(), air_gapped=True)

        assert found.policy.models == {"threadfold-offline": ModelSpec("offline", "threadfold-offline")}
        assert isinstance(models.usual, OfflineModel)

    async def test_there_is_one_model_at_the_endpoint(self) -> None:
        found = load_catalogue(settings(llm_endpoint="https://me:hunter2@api.example.com/v1", llm_model="large"))

        assert found.policy.models == {"large": ModelSpec("api.example.com", "large")}
        assert (found.policy.chain, found.policy.rules) == (("large",), ())
        await open_models(found, Words(), air_gapped=False).close()

    async def test_the_endpoint_has_the_limits_and_fields_that_are_set(self) -> None:
        found = load_catalogue(
            settings(llm_endpoint="http://h/v1", llm_first_byte_seconds=900, llm_omit="tools, stream")
        )

        (provider,) = found.providers.values()
        assert provider.limits == TimeLimits(first_byte=900)
        assert provider.omit == ("tools", "stream")
        assert provider.places["first_byte"] == "LLM_FIRST_BYTE_SECONDS"
        assert load_catalogue(settings(llm_endpoint="http://h/v1")).providers["h"].limits == TimeLimits()

    def test_a_small_model_is_for_summaries_and_strained_budgets(self) -> None:
        found = load_catalogue(settings(llm_endpoint="http://h/v1", llm_model="large", llm_small_model="small"))
        asked = Situation("assistant", "generate_response", 10, tools=True)

        assert choose(found.policy, asked).chain == ("large", "small")
        strained = Situation("assistant", "generate_response", 10, tools=True, strained=True)
        assert choose(found.policy, strained).chain == ("small", "large")
        summary = Situation("assistant", "compact_history", 10, tools=False)
        assert choose(found.policy, summary).chain == ("small", "large")

    def test_a_small_model_that_is_the_large_one_is_none(self) -> None:
        found = load_catalogue(settings(llm_endpoint="http://h/v1", llm_model="large", llm_small_model="large"))

        assert (found.policy.chain, found.policy.rules) == (("large",), ())

    @pytest.mark.parametrize("given", [{}, {"llm_endpoint": "http://h/v1"}])
    def test_agents_may_ask_for_any_model_of_the_endpoint(self, given: dict[str, str]) -> None:
        found = with_asked_for(load_catalogue(settings(**given)), {"mine": "gpt-9"})
        provider = "h" if given else "offline"

        assert found.policy.models["gpt-9"] == ModelSpec(provider, "gpt-9")
        assert "gpt-9" not in found.policy.chain
        assert choose(found.policy, Situation("mine", "n", 1, tools=False, asked="gpt-9")).chain[0] == "gpt-9"

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ({"llm_endpoint": "http://xn--zzzzzzzzzz\u00e9/v1"}, "LLM_ENDPOINT: is not a URL"),
            ({"llm_endpoint": "http://h/v1", "llm_api_key": "s3cr\u00e9t"}, "LLM_API_KEY"),
        ],
    )
    def test_what_cannot_be_used_is_told_by_its_variable(self, given: dict[str, str], told: str) -> None:
        with pytest.raises((BadSetting, ValueError), match=told.replace("LLM_API_KEY", "(?i)llm_api_key")):
            open_models(load_catalogue(settings(**given)), Words(), air_gapped=False)


class TestAirGapped:
    async def test_takes_models_that_are_inside(self, tmp_path: pathlib.Path) -> None:
        inside = FILE.replace("https://api.example.com/v1", "https://llm.corp.internal/v1")

        models = open_models(catalogue(tmp_path, inside), Words(), air_gapped=True)

        assert len(models.providers) == 2
        await models.close()

    async def test_asks_them_past_any_proxy(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
        inside = FILE.replace("https://api.example.com/v1", "https://llm.corp.internal/v1")

        async def proxies(*, air_gapped: bool) -> int:
            models = open_models(catalogue(tmp_path, inside), Words(), air_gapped=air_gapped)
            await models.close()
            client = models.providers["cloud"]
            assert isinstance(client, OpenAIChatModel)
            return sum(mount is not None for mount in client._transport.client._mounts.values())

        assert await proxies(air_gapped=False) == 1
        assert await proxies(air_gapped=True) == 0

    def test_refuses_a_file_with_one_outside_even_if_nobody_would_ask_it(self, tmp_path: pathlib.Path) -> None:
        found = catalogue(tmp_path, FILE.replace('["large", "small"]', '["small"]'))

        with pytest.raises(BadSetting) as caught:
            open_models(found, Words(), air_gapped=True)

        assert str(caught.value).startswith("AIR_GAPPED=true: MODELS=")
        assert "providers.cloud.endpoint: 'api.example.com' may be outside" in str(caught.value)

    def test_refuses_an_endpoint_that_only_looks_inside(self) -> None:
        found = load_catalogue(settings(llm_endpoint="https://127.0.0.1:hunter2@example.com/v1"))

        with pytest.raises(BadSetting) as caught:
            open_models(found, Words(), air_gapped=True)

        assert "LLM_ENDPOINT: 'example.com' may be outside" in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_variables_that_are_no_settings_are_found_in_both_places(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("CLOUD_KEY=from-file\nOTHER_KEY=other\nEMPTY_KEY=\n", encoding="utf-8")
    monkeypatch.setenv("CLOUD_KEY", "from-environment")
    monkeypatch.setenv("OTHER_KEY", "")

    assert variable("CLOUD_KEY", file) == "from-environment"
    assert variable("OTHER_KEY", file) == "other"
    assert variable("EMPTY_KEY", file) is None
    assert variable("NO_KEY", file) is None
    assert variable("CLOUD_KEY", tmp_path / "none") == "from-environment"
