"""Embedders behind OpenAI-compatible endpoints: `/v1/embeddings` of OpenAI, Azure, Ollama, vLLM, TEI and others."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from kivnun.errors import UserError
from kivnun.generation.endpoint import REFUSED, Endpoint, open_endpoint
from kivnun.retrieval.chunks import count_words

BATCH_TEXTS = 64
EXAMPLE = "openai:MODEL?base_url=http://127.0.0.1:8000/v1"
_OPTIONS = ("base_url", "dims", "key_variable", "query_prefix", "document_prefix")


@dataclass(frozen=True)
class Address:
    """What `openai:MODEL?...` says.

    Attributes:
        model: The model's name there.
        base_url: The endpoint, up to and with `/v1`.
        dims: Length of the vectors that is asked for; None for the model's own.
        key_variable: Environment variable that holds the key.
        query_prefix: What stands before a query.
        document_prefix: What stands before a passage.
    """

    model: str
    base_url: str
    dims: int | None = None
    key_variable: str = "OPENAI_API_KEY"
    query_prefix: str = ""
    document_prefix: str = ""


def parse_address(spec: str) -> Address:
    """The parts of an embedder's address.

    Args:
        spec: `openai:MODEL?base_url=ADDRESS`, with further parts after `&`.

    Raises:
        UserError: `embedder-missing` where parts are missing, unknown or wrong.
    """
    model, _, query = spec.removeprefix("openai:").partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        text = f"{model}: unknown parts {', '.join(unknown)}"
        raise UserError("embedder-missing", text, hint=f"known are {', '.join(_OPTIONS)}")
    if not model or not options.get("base_url"):
        raise UserError("embedder-missing", f"{spec!r} lacks a model or base_url", hint=f"write it as {EXAMPLE}")
    if "@" in urlsplit(options["base_url"]).netloc:
        text = f"{model}: a password in base_url would be written into the index"
        raise UserError("embedder-missing", text, hint="put the key into an environment variable: &key_variable=NAME")
    dims = options.pop("dims", None)
    if dims is not None and (not dims.isdecimal() or int(dims) == 0):
        raise UserError("embedder-missing", f"dims={dims} is no length of vectors", hint="give a number, as dims=512")
    return Address(model, dims=int(dims) if dims is not None else None, **options)


class EndpointEmbedder:
    """An embedder that is asked over HTTP; nothing is asked before the first text.

    Args:
        address: Where it is.

    Raises:
        UserError: `dependency-missing` or `endpoint-failed`.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._endpoint: Endpoint = open_endpoint(address.base_url, key_variable=address.key_variable)
        self._dim = address.dims
        self._format: str | None = "base64"
        self.identity: Mapping[str, object] = {
            "name": f"{address.model} at {self._endpoint.place}",
            "dims": address.dims,
            "query_prefix": address.query_prefix,
            "document_prefix": address.document_prefix,
        }
        self.max_tokens: int | None = None
        self.note = (
            f"the tokenizer of {address.model} is not known here: chunks are counted in words, and whether it reads "
            "the language of a text is not checked"
        )

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (N, D) of passages, in requests of 64."""
        batches = [
            self._ask([self._address.document_prefix + text for text in texts[start : start + BATCH_TEXTS]])
            for start in range(0, len(texts), BATCH_TEXTS)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, self._dim or 0), np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The unit vector (D,) of a query."""
        return self._ask([self._address.query_prefix + text])[0]

    def count_tokens(self, text: str) -> int:
        """Words; each sign of Chinese and Japanese is one."""
        return count_words(text)

    def can_read(self, text: str) -> bool:
        """Taken to be so: only the service knows its tokenizer."""
        del text
        return True

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        from openai import OpenAIError  # noqa: PLC0415 - an extra

        try:
            vectors = self._read(self._request(texts), len(texts))
        except (OpenAIError, ValueError, TypeError, AttributeError) as error:
            hint = f"check the address, the model's name and the key in ${self._endpoint.key_variable}; "
            raise self._endpoint.failed(error, hint + "what was embedded before is kept") from error
        self._dim = vectors.shape[1]
        return vectors

    def _request(self, texts: list[str]) -> Any:
        from openai import APIStatusError  # noqa: PLC0415 - an extra

        extra: dict[str, Any] = {} if self._address.dims is None else {"dimensions": self._address.dims}
        create = self._endpoint.client.embeddings.create
        if self._format == "base64":
            try:
                return create(model=self._address.model, input=texts, encoding_format="base64", **extra)
            except APIStatusError as error:
                if error.status_code not in REFUSED:
                    raise
                self._format = "float"
        return create(model=self._address.model, input=texts, encoding_format="float", **extra)

    def _read(self, answer: Any, num_texts: int) -> NDArray[np.float32]:
        """Vectors in the order of the texts, each of length 1."""
        items = sorted(answer.data, key=lambda item: item.index)
        if [item.index for item in items] != list(range(num_texts)):
            raise ValueError(f"{num_texts} texts were sent and {len(items)} vectors came back")
        rows = [_decode(item.embedding) for item in items]
        lengths = {len(row) for row in rows} | ({self._dim} if self._dim is not None else set())
        if len(lengths) > 1:
            raise ValueError(f"the vectors have {' and '.join(map(str, sorted(lengths)))} numbers")
        vectors = np.stack(rows)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or (norms == 0).any():
            raise ValueError("a vector is zero or not finite")
        return vectors / norms


def _decode(embedding: object) -> NDArray[np.float32]:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.asarray(embedding, np.float32)
