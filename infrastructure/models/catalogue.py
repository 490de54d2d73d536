"""The catalogue of providers and models: from the TOML file that MODELS names, or else from LLM_ENDPOINT and so on.

`docs/models.example.toml` shows the file. Keys are in the environment or in `.env`, never in the file.
"""

import pathlib
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from pydantic import SecretStr

from domain.errors import InvalidInput
from domain.models.routing import ModelSpec, Policy, Rule
from infrastructure.models.offline import model as offline
from infrastructure.models.openai.endpoints import PLACES, TimeLimits, completions_url
from infrastructure.models.openai.refusals import FIELDS
from infrastructure.models.openai.request import PromptCache
from infrastructure.settings import BadSetting, Settings, variable

OFFLINE = "offline"
"""The endpoint of the built-in model."""

SUMMARY_NODE = "compact_history"
"""The node of the built-in agent that writes summaries."""

T = TypeVar("T")


class Provider(Struct, frozen=True):
    """An endpoint of models. `places` names the setting of each field, for errors.

    `omit` are the fields of requests that the endpoint does not take.
    """

    endpoint: str
    key: SecretStr | None = None
    limits: TimeLimits = TimeLimits()
    omit: tuple[str, ...] = ()
    prompt_cache: PromptCache = "automatic"
    places: Mapping[str, str] = {}


class Catalogue(Struct, frozen=True):
    """The providers by name, and the routing policy over their models.

    `place` is the setting that names the models. `open_ended`: agents may name any other model of the first provider.
    """

    providers: Mapping[str, Provider]
    policy: Policy
    place: str
    open_ended: bool


class _ProviderTable(TimeLimits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A provider in the file."""

    endpoint: str
    api_key_env: str | None = None
    omit: tuple[str, ...] = ()
    prompt_cache: PromptCache = "automatic"


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    """The file. Its tables are converted one by one, so that an error names its table."""

    chain: tuple[str, ...]
    providers: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    rules: tuple[dict[str, Any], ...] = ()


def load_catalogue(settings: Settings, read: Callable[[str], str | None] = variable) -> Catalogue:
    """Load the catalogue that the settings name. `read` returns variables of the environment.

    Raises:
        BadSetting: naming the file and the field.
    """
    if settings.models is None:
        if settings.llm_endpoint:
            return _from_endpoint(settings)
        policy = Policy({offline.NAME: ModelSpec(OFFLINE, offline.NAME)}, (offline.NAME,))
        return Catalogue({OFFLINE: Provider(OFFLINE)}, policy, "LLM_ENDPOINT", open_ended=True)
    place = f"MODELS={settings.models}"
    try:
        return _from_file(settings.models, place, read)
    except InvalidInput as error:
        raise BadSetting(f"{place}: {error.field}: {error.why}") from error
    except (OSError, ValueError) as error:  # errors of TOML and of the encoding are ValueErrors
        raise BadSetting(f"{place}: {error}") from error


def with_asked_for(catalogue: Catalogue, asked: Mapping[str, str | None]) -> Catalogue:
    """Add the models that agents name: `asked` has them by the agents' names.

    Raises:
        BadSetting: the catalogue is a file, and the model is not in it.
    """
    models = dict(catalogue.policy.models)
    for agent, model in asked.items():
        if model is None or model in models:
            continue
        if not catalogue.open_ended:
            known = ", ".join(catalogue.policy.models)
            raise BadSetting(f"{catalogue.place}: agent {agent!r} names unknown model {model!r}; known models: {known}")
        models[model] = ModelSpec(next(iter(catalogue.providers)), model)
    return msgspec.structs.replace(catalogue, policy=Policy(models, catalogue.policy.chain, catalogue.policy.rules))


def _from_endpoint(settings: Settings) -> Catalogue:
    """Build a catalogue of one provider, which is named after its host, and one model or two."""
    large, small = settings.llm_model, settings.llm_small_model
    endpoint = settings.llm_endpoint or ""
    limits = TimeLimits(
        settings.llm_connect_seconds,
        settings.llm_first_byte_seconds,
        settings.llm_silence_seconds,
        settings.llm_total_seconds,
    )
    provider = Provider(endpoint, settings.llm_api_key, limits, settings.llm_omit, places=PLACES)
    name = host_of(provider)
    chain = (large,) if small in {None, large} else (large, small or large)
    rules = () if len(chain) == 1 else (Rule(chain[1], strained=True), Rule(chain[1], node=SUMMARY_NODE))
    policy = Policy({model: ModelSpec(name, model) for model in chain}, chain, rules)
    return Catalogue({name: provider}, policy, "LLM_MODEL", open_ended=True)


def host_of(provider: Provider) -> str:
    """Return the host of a provider's endpoint. Raises `BadSetting` if the endpoint is no URL."""
    try:
        return completions_url(provider.endpoint).host
    except InvalidInput as error:
        raise BadSetting(f"{provider.places['endpoint']}: {error.why}") from error


def _from_file(path: pathlib.Path, place: str, read: Callable[[str], str | None]) -> Catalogue:
    with path.open("rb") as file:
        found = _convert(tomllib.load(file), _File, "")
    tables = _tables(found.providers, _ProviderTable, "providers")
    providers = {name: _provider(name, table, place, read) for name, table in tables.items()}
    models = _tables(found.models, ModelSpec, "models")
    for name, spec in models.items():
        if spec.provider not in providers:
            why = f"unknown provider {spec.provider!r}; known providers: {', '.join(providers) or 'none'}"
            raise InvalidInput(f"models.{name}.provider", why)
    rules = tuple(_convert(raw, Rule, f"rules.{index}") for index, raw in enumerate(found.rules))
    return Catalogue(providers, Policy(models, found.chain, rules), place, open_ended=False)


def _tables(tables: dict[str, dict[str, Any]], kind: type[T], field: str) -> dict[str, T]:
    for name in tables:
        if not re.fullmatch(r"[\w.:/@+-]{1,64}", name):
            raise InvalidInput(field, f"invalid name {name!r}: expected up to 64 letters, digits and . : / @ + - _")
    return {name: _convert(raw, kind, f"{field}.{name}") for name, raw in tables.items()}


def _provider(name: str, table: _ProviderTable, place: str, read: Callable[[str], str | None]) -> Provider:
    key_field = f"providers.{name}.api_key_env"
    key = None if table.api_key_env is None else read(table.api_key_env)
    if table.api_key_env is not None and key is None:
        raise InvalidInput(key_field, f"{table.api_key_env} is neither in the environment nor in .env")
    for field in table.omit:
        if field not in FIELDS:
            raise InvalidInput(f"providers.{name}.omit", f"expected some of {', '.join(FIELDS)}, not {field!r}")
    secret = None if key is None else SecretStr(key)
    limits = msgspec.convert(table, TimeLimits, from_attributes=True)
    places = {field: f"{place}: providers.{name}.{field}" for field in PLACES}
    places["api_key"] = f"{place}: {key_field}: {table.api_key_env}"
    return Provider(table.endpoint, secret, limits, table.omit, table.prompt_cache, places)


def _convert(raw: Any, kind: type[T], field: str) -> T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$")
        at = (field + where.rstrip("`").replace("[...]", "")).removeprefix(".")
        raise InvalidInput(at or "the file", why.replace("`", "")) from error
