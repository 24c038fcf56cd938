"""The fields that a request may have, to tell the nearest one of a name that is none of them."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

CUTOFF = 0.6
# The fields that tell one kind of object from another.
TAGS = ("type", "role")
# Of other servers. The nearest names here mean something else.
OTHERS = frozenset({"repetition_penalty", "length_penalty", "min_tokens", "guided_json", "reasoning_content"})


def body_shape(route: object) -> Any:
    """The type that a route wants its body to have; None for a route without one.

    Args:
        route: As a request's scope holds it.
    """
    if not isinstance(route, APIRoute) or len(route.dependant.body_params) != 1:
        return None
    return route.dependant.body_params[0].field_info.annotation


def say_unknown(param: str, name: str, known: Collection[str]) -> str:
    """What a client is told about a field that does not exist, in OpenAI's words and one sentence of ours.

    Args:
        param: Where it stands, such as `messages[0].nam`.
        name: Its own name.
        known: Those that may stand there.
    """
    close = [] if name in OTHERS else get_close_matches(name, known, n=1, cutoff=CUTOFF)
    advice = f"Did you mean '{close[0]}'?" if close else "This server knows no such field; leave it out."
    return f"Unrecognized request argument supplied: {param}. {advice}"


def find_field_names(shape: Any, body: Any, path: Sequence[str | int]) -> list[str]:
    """The names that may stand at a place of a body.

    Args:
        shape: The type of the whole body.
        body: What was sent; it tells which of several types a value was meant to have.
        path: The fields and numbers that lead to the place.
    """
    models = [model for model in _models_of(shape) if _fits(model, body)]
    for step in path:
        body = body[step]
        if isinstance(step, str):
            types = [field.annotation for model in models for name, field in _fields(model).items() if name == step]
            models = [model for each in types for model in _models_of(each)]
        models = [model for model in models if _fits(model, body)]
    return sorted({name for model in models for name in _fields(model)})


def _fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _models_of(shape: Any) -> Iterator[type[BaseModel]]:
    """The objects of a type, and of a list of them."""
    if inspect.isclass(shape) and issubclass(shape, BaseModel):
        yield shape
    for part in get_args(shape):
        yield from _models_of(part)


def _fits(model: type[BaseModel], value: Any) -> bool:
    """Whether a value does not say by its `type` or `role` that it was meant to be another object."""
    sent = value if isinstance(value, Mapping) else {}
    tags = {tag: get_args(model.model_fields[tag].annotation) for tag in TAGS if tag in model.model_fields}
    return all(not known or tag not in sent or sent[tag] in known for tag, known in tags.items())
