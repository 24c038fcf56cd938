"""Embeddings: the vectors of texts, as numbers or in base64, which OpenAI's libraries ask for."""

import base64
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, cast

import numpy as np
from fastapi import APIRouter, Depends, Request
from numpy.typing import NDArray
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from kivnun.server.bodies import RequestBody
from kivnun.server.callers import Caller, get_service, require
from kivnun.server.embeddings.models import EmbeddingModels, Vectors, find_source, say_embedder
from kivnun.server.errors import ApiError, invalid
from kivnun.server.model_names import STAND_IN_HEADER, say_header
from kivnun.server.service import Service

router = APIRouter(tags=["embeddings"])
Reader = Annotated[Caller, Depends(require("inference:read"))]
TheService = Annotated[Service, Depends(get_service)]

MAX_TEXTS = 2048
MAX_TOTAL_TOKENS = 300_000
# Other requests have their turn between the parts of a large one.
PART_TEXTS = 64

Texts = str | list[str] | list[int] | list[list[int]]


class CreateEmbeddings(RequestBody):
    """What a client asks for.

    Attributes:
        input: One text or several, in words or in tokens of the model itself.
        model: Its name.
        encoding_format: How vectors are written.
        dimensions: Keep only so many of the numbers.
        user: Whom it is for; nothing depends on it.
    """

    input: Texts
    model: Annotated[str, Field(min_length=1, max_length=512)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


def get_models(request: Request) -> EmbeddingModels:
    """The embedding models of the application, made when they are first asked for."""
    state = request.app.state
    if not hasattr(state, "embedding_models"):
        state.embedding_models = EmbeddingModels()
    return state.embedding_models


@router.post("/embeddings")
async def create_embeddings(
    asked: CreateEmbeddings,
    request: Request,
    caller: Reader,
    service: TheService,
    models: Annotated[EmbeddingModels, Depends(get_models)],
) -> dict[str, Any]:
    """The vector of each text, in the order of the texts."""
    texts = read_texts(asked.input)
    source, stands_in = await run_in_threadpool(_find_source, service, caller, asked.model)
    if stands_in and not isinstance(texts[0], str):
        message = (
            f"'$.input' is invalid: the tokens of {asked.model} are not those of the model that stands in for it here. "
            "Send texts (LangChain: check_embedding_ctx_length=False)."
        )
        raise invalid("input", message)
    request.state.model_headers = {STAND_IN_HEADER: say_header(say_embedder(source))} if stands_in else {}
    rows = await models.use(source, lambda model: read_rows(model, texts, asked.dimensions))
    num_tokens = sum(map(len, rows))
    service.limits.take_tokens(caller, num_tokens)
    data: list[dict[str, Any]] = []
    for start in range(0, len(rows), PART_TEXTS):
        part = rows[start : start + PART_TEXTS]
        vectors = await models.use(source, lambda model, part=part: shorten(model.embed(part), asked.dimensions))
        data.extend(_objects(vectors, start, asked.encoding_format))
    service.counters.tokens(prompt=num_tokens)
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def read_texts(given: Texts) -> Sequence[str | list[int]]:
    """The texts of a request, whichever way they are written.

    Args:
        given: The field `input`.

    Raises:
        ApiError: 400 for none, too many, or one that is empty.
    """
    if not isinstance(given, str) and not 0 < len(given) <= MAX_TEXTS:
        raise invalid("input", f"'$.input' is invalid: an array has 1 to {MAX_TEXTS} items, and it has {len(given)}.")
    is_one = isinstance(given, str) or isinstance(given[0], int)
    texts = cast("Sequence[str | list[int]]", [given] if is_one else given)
    empty = next((number for number, text in enumerate(texts) if not text), None)
    if empty is not None:
        raise invalid("input", f"'$.input' is invalid: text {empty} is empty.")
    return texts


def read_rows(model: Vectors, texts: Sequence[str | list[int]], dimensions: int | None) -> list[list[int]]:
    """The tokens of each text.

    Args:
        model: Its tokens.
        texts: In words or in tokens.
        dimensions: How many numbers of a vector are wanted.

    Raises:
        ApiError: 400 for a text that is too long or has no token that the model knows.
    """
    if dimensions is not None and dimensions > model.dim:
        raise invalid("dimensions", f"This model's vectors have {model.dim} numbers; {dimensions} were asked for.")
    rows = [model.tokenize(text) if isinstance(text, str) else text for text in texts]
    for number, row in enumerate(rows):
        if len(row) > model.max_tokens:
            message = (
                f"This model's maximum context length is {model.max_tokens} tokens, however text {number} has "
                f"{len(row)} tokens. Please reduce its length."
            )
            raise invalid("input", message, code="context_length_exceeded")
        if not row or min(row) < 0 or max(row) >= model.num_words:
            problem = "has no tokens" if not row else f"has tokens that are not 0 to {model.num_words - 1}"
            raise invalid("input", f"'$.input' is invalid: text {number} {problem}.")
    total = sum(map(len, rows))
    if total > MAX_TOTAL_TOKENS:
        message = f"Requested {total} tokens, max {MAX_TOTAL_TOKENS} tokens per request."
        raise ApiError(400, message, param="input", code="max_tokens_per_request")
    return rows


def shorten(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first numbers of vectors, of length 1 again; vectors that keep all their numbers stay as they are.

    Args:
        vectors: Shape (N, D).
        dimensions: How many numbers; None for all.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions]
    norms = np.linalg.norm(kept, axis=1, keepdims=True)
    return (kept / np.where(norms == 0, 1, norms)).astype(np.float32)


def _objects(vectors: NDArray[np.float32], start: int, encoding: str) -> Iterator[dict[str, Any]]:
    for number, vector in enumerate(vectors, start):
        written = base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector.tolist()
        yield {"object": "embedding", "index": number, "embedding": written}


def _find_source(service: Service, caller: Caller, name: str) -> tuple[str, bool]:
    with service.database.reading() as session:
        return find_source(session, service, caller, name)
