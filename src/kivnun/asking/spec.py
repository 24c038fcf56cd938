"""How a model is named: `openai:MODEL?base_url=...`, `anthropic:MODEL`, or a run, folder or id with `#` and wishes."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import parse_qsl

import orjson

from kivnun.errors import UserError

Service = Literal["openai", "anthropic"]
SERVICES: Mapping[Service, tuple[str, str]] = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com", "ANTHROPIC_API_KEY"),
}
"""Address and key variable of each service, where a name does not say them."""
OPTIONS = ("base_url", "key_variable", "parallel", "timeout_seconds", "temperature")
MAX_PARALLEL = 64


@dataclass(frozen=True)
class EndpointSpec:
    """A model behind an endpoint, as it is named.

    Attributes:
        service: Which SDK asks it.
        model: Its name there.
        base_url: The address.
        key_variable: Environment variable that holds the key.
        parallel: Most requests at once.
        timeout_seconds: Longest wait for one answer.
        temperature: Of the sampling; None where none is sent, since newer models refuse one.
    """

    service: Service
    model: str
    base_url: str
    key_variable: str
    parallel: int = 4
    timeout_seconds: float = 120.0
    temperature: float | None = None

    @property
    def is_default_address(self) -> bool:
        """Whether it is the service's own address, which wants a key."""
        return self.base_url == SERVICES[self.service][0]


@dataclass(frozen=True)
class LocalSpec:
    """A model of this machine, as it is named.

    Attributes:
        name: A run, a folder, a Hugging Face id or `bundled`.
        engine: The one that was asked for; None for the shipped form of a run, where there is one.
        kind: How it is asked, where that was said.
        adapter: One of the adapters that share the model.
    """

    name: str
    engine: Literal["torch", "onnx"] | None = None
    kind: Literal["text", "chat"] | None = None
    adapter: str | None = None


def parse_spec(spec: str) -> EndpointSpec | LocalSpec:
    """Read the name of a model.

    Args:
        spec: As a user writes it.

    Raises:
        UserError: `endpoint-failed` for an endpoint that is not named right.
    """
    service, colon, rest = spec.partition(":")
    if colon and service in SERVICES:
        return _parse_endpoint(cast("Service", service), rest)
    name, _, wishes = spec.partition("#")
    engine: Literal["torch", "onnx"] | None = None
    kind: Literal["text", "chat"] | None = None
    adapter = None
    for wish in filter(None, wishes.split("#")):
        if wish in ("torch", "onnx"):
            engine = cast("Literal['torch', 'onnx']", wish)
        elif wish in ("text", "chat"):
            kind = cast("Literal['text', 'chat']", wish)
        else:
            adapter = wish
    return LocalSpec(name, engine, kind, adapter)


def public_name(spec: str) -> str:
    """A model's name as it may stand in files and on screens: of an endpoint, without its address and options."""
    return spec.partition("?")[0] if re.match(r"(openai|anthropic):", spec) else spec


def _parse_endpoint(service: Service, rest: str) -> EndpointSpec:
    model, _, query = rest.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    base_url, key_variable = SERVICES[service]
    unknown = [name for name in given if name not in OPTIONS]
    if not model or unknown:
        problem = f"unknown option {', '.join(unknown)}" if unknown else "no model is named"
        raise _refusal(service, problem)
    temperature = given.get("temperature")
    return EndpointSpec(
        service,
        model,
        given.get("base_url", base_url),
        given.get("key_variable", key_variable),
        int(_number(service, given, "parallel", 4, 1, MAX_PARALLEL)),
        _number(service, given, "timeout_seconds", 120.0, 0.1, 3600.0),
        None if temperature is None else _number(service, given, "temperature", 0.0, 0.0, 2.0),
    )


def _number(service: Service, given: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    try:
        value = float(given.get(name, default))
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise _refusal(service, f"{name} must be a number from {low:g} to {high:g} (got {given[name]!r})")
    return value


def _refusal(service: Service, problem: str) -> UserError:
    return UserError(
        "endpoint-failed",
        f"{service}: {problem}",
        hint=f"write it like '{service}:MODEL?base_url=ADDRESS&key_variable=NAME'; options are {', '.join(OPTIONS)}",
    )


def endpoint_identity(spec: EndpointSpec, place: str) -> str:
    """What a model's answers depend on, as far as anybody outside can know; a service may change it behind its name.

    Args:
        spec: How the model is named.
        place: The address without secrets.
    """
    return hashlib.sha256(orjson.dumps([spec.service, place, spec.model, spec.temperature])).hexdigest()
