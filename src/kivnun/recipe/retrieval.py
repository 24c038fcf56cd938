"""The `retrieval` section: documents that a model may be shown passages of, and how the passages are found."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from kivnun.recipe import rules, strategy_rules
from kivnun.recipe.values import (
    PlainValue,
    PositiveNumber,
    PositiveWhole,
    Section,
    Share,
    Text,
    Whole,
    tag_number,
    tag_shape,
)

Documents = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[tuple[Text, ...], Tag("<list>"), Field(min_length=1)],
    Discriminator(tag_shape),
]
"""A file or folder, or several."""

DenseWeight = Annotated[
    Annotated[Literal["auto"], Tag("<text>")] | Annotated[Share, Tag("<number>")], Discriminator(tag_number)
]
"""A share, or as it suits what is known of the embedder."""


class RetrievalSection(Section):
    """Passages of documents that answer questions; `kivnun index` and `kivnun decide` use it, `kivnun run` does not."""

    documents: Documents
    """Files and folders of txt, md, html, pdf and docx, or JSONL with the fields `id` and `text`."""
    store: Text = "sqlite"
    """Where chunks and vectors are kept: `sqlite` for one file beside the run, `lancedb` for a folder of it, or an \
address `postgresql://...` of a server with pgvector."""
    embedder: Text = "none"
    """What turns text into vectors: `none` (words alone), `builtin`, `hf:NAME`, `dir:FOLDER`, or \
`openai:MODEL?base_url=ADDRESS`."""
    chunk_tokens: Annotated[Whole, Field(ge=16)] = 200
    """Longest chunk, in tokens of the embedder, or in words where there is none."""
    chunk_overlap_tokens: Annotated[Whole, Field(ge=0)] = 0
    """Tokens that a chunk repeats of the one before it."""
    k: PositiveWhole = 3
    """Passages that a model is shown."""
    dense_weight: DenseWeight = "auto"
    """Weight of the vectors beside the words, from 0 to 1; `auto`: 0.5, and 0 for what the embedder cannot read."""
    filters: dict[Text, PlainValue] = Field(default={})
    """Values that a document's metadata must have, such as `{year: 2024}`."""
    reranker: Text | None = None
    """A cross-encoder that orders the best passages again: `hf:NAME` or `dir:FOLDER`."""
    min_score: PositiveNumber | None = None
    """Least score of the best passage; below it the model abstains."""
    passage_template: Text = "[{number}] {text}\n"
    """How each passage is shown: `{number}`, `{text}`, `{document}` and `{heading}` may stand in it."""
    context_template: Text = "{passages}\n{prompt}"
    """Where the passages stand beside the row's prompt: `{passages}` and `{prompt}`."""
    query: Text | None = None
    """Column that is searched with; the row's own prompt if not given."""
    gold: Text | None = None
    """Column that names the right document, or holds the right passage, for measuring what retrieval loses."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(strategy_rules.check_retrieval(self))
        return self
