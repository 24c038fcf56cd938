"""The `training.objective` section: what is learnt from the rows."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from kivnun.recipe.values import (
    PlainValue,
    PositiveNumber,
    Section,
    ShareBelowOne,
    Text,
    tag_kind,
)


class SupervisedObjective(Section):
    """The answers of the rows are learnt, token by token."""

    kind: Literal["supervised"] = "supervised"
    """The objective."""


class TextObjective(Section):
    """Every token of running text is learnt: continued pre-training."""

    kind: Literal["text"] = "text"
    """The objective."""


class DpoObjective(Section):
    """The preferred answer becomes likelier than the rejected one (Rafailov et al. 2023, arXiv:2305.18290)."""

    kind: Literal["dpo"] = "dpo"
    """The objective."""
    beta: PositiveNumber = 0.1
    """How strongly the model is held to the base model."""
    label_smoothing: Annotated[ShareBelowOne, Field(lt=0.5)] = 0.0
    """Share of the preferences that is taken to be the wrong way round."""


class OrpoObjective(Section):
    """The preferred answer is learnt while its odds over the rejected one rise (Hong et al. 2024, arXiv:2403.07691)."""

    kind: Literal["orpo"] = "orpo"
    """The objective."""
    beta: PositiveNumber = 0.1
    """Weight of the odds ratio (lambda in the paper)."""


class KtoObjective(Section):
    """Answers marked good become likelier, those marked bad less so (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    kind: Literal["kto"] = "kto"
    """The objective."""
    beta: PositiveNumber = 0.1
    """How strongly the model is held to the base model."""
    desirable_weight: PositiveNumber = 1.0
    """Weight of the good answers."""
    undesirable_weight: PositiveNumber = 1.0
    """Weight of the bad answers."""


class ClassificationObjective(Section):
    """A head on the last token's hidden state tells the row's label; no text is generated."""

    kind: Literal["classification"] = "classification"
    """The objective."""


class ContrastiveObjective(Section):
    """The model becomes an embedding model: what belongs together comes to lie together."""

    kind: Literal["contrastive"] = "contrastive"
    """The objective."""
    loss: Literal["in_batch", "margin"] = "in_batch"
    """`in_batch`: the other answers of the batch are the negatives (van den Oord et al. 2018, arXiv:1807.03748); \
`margin`: pairs with a label are pulled together or pushed apart (Hadsell et al. 2006)."""
    temperature: PositiveNumber = 0.05
    """Divisor of the cosine similarities, of `in_batch`."""
    margin: PositiveNumber = 1.0
    """Distance to which unlike pairs are pushed apart, of `margin`."""
    negative: Text | None = None
    """Column of a text that does not belong to the row's pair, a hard negative of `in_batch`; of preference rows the \
rejected answer is taken."""
    pair_label: Text | None = None
    """Column that says whether a pair is unlike (1) or alike (0), of `margin`; all are alike if not given."""
    pooling: Literal["mean", "last"] = "mean"
    """Hidden states that make the embedding."""


class CustomObjective(Section):
    """A loss of your own, named by an entry point of the group `kivnun.objectives`."""

    kind: Literal["custom"] = "custom"
    """The objective."""
    name: Text
    """Name of the entry point."""
    options: dict[Text, PlainValue] = Field(default={})
    """What the loss is made with."""


OBJECTIVE_SECTIONS = (
    SupervisedObjective,
    TextObjective,
    DpoObjective,
    OrpoObjective,
    KtoObjective,
    ClassificationObjective,
    ContrastiveObjective,
    CustomObjective,
)


def _kind_alone(value: Any) -> Any:
    """`objective: dpo` is short for `objective: {kind: dpo}`."""
    return {"kind": value} if isinstance(value, str) else value


Objective = Annotated[
    Annotated[SupervisedObjective, Tag("<supervised>")]
    | Annotated[TextObjective, Tag("<text>")]
    | Annotated[DpoObjective, Tag("<dpo>")]
    | Annotated[OrpoObjective, Tag("<orpo>")]
    | Annotated[KtoObjective, Tag("<kto>")]
    | Annotated[ClassificationObjective, Tag("<classification>")]
    | Annotated[ContrastiveObjective, Tag("<contrastive>")]
    | Annotated[CustomObjective, Tag("<custom>")],
    Discriminator(tag_kind),
    BeforeValidator(_kind_alone),
]
"""What is learnt, chosen by `kind`; the kind alone stands for it with its defaults."""
