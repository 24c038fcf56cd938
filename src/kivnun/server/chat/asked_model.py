"""What every route that asks a model does first and last: find it, take its tokens off the limits, count them."""

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool

from kivnun import __version__
from kivnun.server.callers import Caller
from kivnun.server.chat.answering import Delta, Finish
from kivnun.server.model_names import NamedModel, find_model
from kivnun.server.service import Service
from kivnun.serving.answers import BusyError, Ended

if TYPE_CHECKING:
    from kivnun.serving.pool import OpenModel

# Counted against a limit at first where a request does not say how long its answer may be; what it took is counted
# at its end in any case.
EXPECTED_TOKENS = 256


@dataclass
class Spending:
    """Tokens of one request, as they become known.

    Attributes:
        ended: The answers that have ended.
        answered: How many tokens each answer has so far, by its number.
        started: When the request came.
    """

    ended: list[Ended] = field(default_factory=list[Ended])
    answered: dict[int, int] = field(default_factory=dict[int, int])
    started: float = field(default_factory=time.perf_counter)


async def name_model(service: Service, caller: Caller, name: str) -> NamedModel:
    """The model that a client asks for.

    Args:
        service: Of the server.
        caller: Who asks.
        name: As the client calls it.

    Raises:
        ApiError: 404 `model_not_found`.
    """

    def find() -> NamedModel:
        with service.database.reading() as session:
            return find_model(session, service, caller, name)

    return await run_in_threadpool(find)


async def open_model(service: Service, named: NamedModel) -> "OpenModel":
    """A model in memory, loaded if it has to be, without holding up other requests.

    Args:
        service: Of the server.
        named: Which one.

    Raises:
        UserError: It cannot be loaded.
        BusyError: There is no memory for it now.
    """
    return await service.openings.open(service.pool, named.address)


def fingerprint(named: NamedModel) -> str:
    """What answers depend on beside the request: the model, what computes it, and this version.

    Args:
        named: Of the request.
    """
    address = named.address
    parts = (address.base, str(address.tuned), address.engine, str(named.created), __version__)
    return "fp_" + hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


@asynccontextmanager
async def spending(
    service: Service, caller: Caller, prompt_tokens: Sequence[int], answer_tokens: int
) -> AsyncIterator[Spending]:
    """Take tokens off a project's limit, and settle with what was really used, however it ends.

    What a client read before it went away is used; a request that found no place has used nothing.

    Args:
        service: Of the server.
        caller: Whose tokens.
        prompt_tokens: Of each prompt.
        answer_tokens: The most that all answers together may have, or are expected to.

    Raises:
        ApiError: 429.
    """
    prompt = sum(prompt_tokens)
    taken = prompt + answer_tokens
    service.limits.take_tokens(caller, taken)
    spent = Spending()
    try:
        yield spent
    except BusyError:
        if not spent.answered:
            prompt = 0
        raise
    finally:
        answer = sum(spent.answered.values())
        cached = sum(ended.cached_tokens for ended in spent.ended)
        service.limits.give_back_tokens(caller, taken - prompt - answer)
        service.counters.tokens(prompt=prompt, cached=cached, answer=answer)


def note(service: Service, spent: Spending, told: Delta | Finish) -> None:
    """Count what came of an answer.

    Args:
        service: Of the server.
        spent: Of the request.
        told: A delta or an end.
    """
    if not spent.answered:
        service.counters.first_token(time.perf_counter() - spent.started)
    if isinstance(told, Finish):
        spent.ended.append(told.ended)
        spent.answered[told.index] = told.ended.answer_tokens
    else:
        spent.answered[told.index] = told.num_answered
