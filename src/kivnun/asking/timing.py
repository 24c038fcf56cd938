"""How long one request takes when it is asked alone, and what is known of the machine meanwhile."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from kivnun.asking.kept import KeptAnswers, answer_key
from kivnun.asking.request import AskedModel, Log, Reply, Request

PURPOSE = "timed"


@dataclass(frozen=True)
class Times:
    """Times of requests that were asked one by one.

    Attributes:
        p50_ms: Median from request to last token.
        p95_ms: Its 95th percentile.
        first_token_p50_ms: Median from request to first token; None where no answer had a token.
        num_requests: Requests that were timed.
        load: Processes that waited for a core of this machine, on the average of the last minute.
    """

    p50_ms: float
    p95_ms: float
    first_token_p50_ms: float | None
    num_requests: int
    load: float

    def to_json(self) -> dict[str, object]:
        """The figures as JSON values."""
        return asdict(self)


def time_all(
    model: AskedModel, requests: Sequence[Request], *, max_new_tokens: int, kept: KeptAnswers, log: Log
) -> list[Reply]:
    """The timed reply to every request; the first one is asked twice, since what is loaded late belongs to no request.

    Args:
        model: Who is asked.
        requests: What is asked, one after the other.
        max_new_tokens: Longest answer.
        kept: Where timed replies are kept, apart from those of `ask_all`.
        log: Takes `asked` after each reply.

    Raises:
        UserError: As for `AskedModel.time`.
    """
    replies: list[Reply] = []
    is_warm = False
    for done, request in enumerate(requests, start=1):
        key = answer_key(model.identity, request, max_new_tokens, purpose=PURPOSE)
        reply = kept.find(key)
        if reply is None:
            if not is_warm:
                model.time(request, max_new_tokens=max_new_tokens)
                is_warm = True
            reply = model.time(request, max_new_tokens=max_new_tokens)
            kept.keep(key, reply)
        replies.append(reply)
        log("asked", {"model": model.name, "done": done, "num_requests": len(requests)})
    return replies


def summarise_times(replies: Sequence[Reply]) -> Times | None:
    """Percentiles of timed replies; None where none was timed.

    Args:
        replies: Of `time_all`.
    """
    seconds = [reply.seconds for reply in replies if reply.seconds is not None]
    firsts = [reply.first_token_seconds for reply in replies if reply.first_token_seconds is not None]
    if not seconds:
        return None
    p50, p95 = (1000 * float(value) for value in np.quantile(seconds, [0.5, 0.95]))
    first = 1000 * float(np.median(firsts)) if firsts else None
    return Times(p50, p95, first, len(seconds), os.getloadavg()[0])
