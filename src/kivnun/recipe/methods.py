"""The `method` section: how a model's weights become trainable."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, StrictBool, Tag, model_validator

from kivnun.recipe import rules
from kivnun.recipe.values import (
    LayerNames,
    PositiveNumber,
    PositiveWhole,
    Section,
    ShareBelowOne,
    Text,
    tag_kind,
)


class FullMethod(Section):
    """Every weight of the model is trained."""

    kind: Literal["full"] = "full"
    """The method."""


class PartialMethod(Section):
    """Some weights are trained as they are, the others are frozen."""

    kind: Literal["partial"] = "partial"
    """The method."""
    last_layers: PositiveWhole | None = None
    """Number of decoder layers, counted from the last one, that are trained, with the norm and head behind them; a \
head that shares its matrix with the input embeddings stays frozen."""
    modules: tuple[Text, ...] = ()
    """Names of modules or weights that are trained: whole names or their last parts, `*` for any text, such as \
`[layers.5, lm_head]`."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_partial(self))
        return self


class LoraMethod(Section):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"] = "lora"
    """The method."""
    rank: PositiveWhole = 16
    """Rank of the adapter matrices."""
    alpha: PositiveNumber = 32
    """Strength of the adapter, which is scaled by `alpha / rank`."""
    dropout: ShareBelowOne = 0.0
    """Share of the adapter's inputs that is dropped while training."""
    target_modules: LayerNames = "all-linear"
    """Layers that get an adapter: `all-linear`, or a list of layer names such as `[q_proj, v_proj]`."""
    modules_to_save: tuple[Text, ...] = ()
    """Modules that are trained whole beside the adapter and kept with it, such as `[embed_tokens, lm_head]`."""
    use_rslora: StrictBool = False
    """Scale by `alpha / sqrt(rank)` (Kalajdzievski 2023, arXiv:2312.03732), which keeps high ranks learning."""
    use_dora: StrictBool = False
    """Train the length of each weight row apart from its direction (Liu et al. 2024, arXiv:2402.09353)."""
    learning_rate_ratio: PositiveNumber = 1.0
    """How many times faster B learns than A (LoRA+, Hayou et al. 2024, arXiv:2402.12354, which takes 16)."""


class QloraMethod(LoraMethod):
    """Low-rank adapters beside frozen weights of 4 bits (Dettmers et al. 2023, arXiv:2305.14314)."""

    kind: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    """The method."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """Values that 4 bits stand for: those of a normal distribution, or floating point."""
    double_quant: StrictBool = True
    """Whether the scales of the 4-bit blocks are quantised as well."""


class BottleneckMethod(Section):
    """Small layers between the frozen ones: h + U f(D h)."""

    kind: Literal["adapter"] = "adapter"
    """The method."""
    placement: Literal["houlsby", "pfeiffer"] = "pfeiffer"
    """Where they stand: after attention and feed-forward (Houlsby et al. 2019, arXiv:1902.00751), or after the \
feed-forward alone (Pfeiffer et al. 2021, arXiv:2005.00247)."""
    bottleneck_size: PositiveWhole = 64
    """Width of the small layers."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """The function between the two matrices."""


class Ia3Method(Section):
    """Learned scales on keys, values and feed-forward activations (Liu et al. 2022, arXiv:2205.05638), through PEFT."""

    kind: Literal["ia3"] = "ia3"
    """The method."""
    target_modules: tuple[Text, ...] = ()
    """Layers whose activations are scaled; PEFT's choice for the architecture if not given."""
    feedforward_modules: tuple[Text, ...] = ()
    """Those among them whose inputs are scaled, not their outputs; PEFT's choice if not given."""


class PrefixMethod(Section):
    """Learned keys and values before every layer's own (Li and Liang 2021, arXiv:2101.00190), through PEFT."""

    kind: Literal["prefix"] = "prefix"
    """The method."""
    num_virtual_tokens: PositiveWhole = 20
    """Length of the prefix."""


class PromptMethod(Section):
    """Learned embeddings before the prompt (Lester et al. 2021, arXiv:2104.08691), through PEFT."""

    kind: Literal["prompt"] = "prompt"
    """The method."""
    num_virtual_tokens: PositiveWhole = 20
    """Number of embeddings."""
    init_text: Text | None = None
    """Text whose embeddings they start as; random ones of the vocabulary if not given."""


METHOD_SECTIONS = (
    FullMethod,
    PartialMethod,
    LoraMethod,
    QloraMethod,
    BottleneckMethod,
    Ia3Method,
    PrefixMethod,
    PromptMethod,
)

Method = Annotated[
    Annotated[FullMethod, Tag("<full>")]
    | Annotated[PartialMethod, Tag("<partial>")]
    | Annotated[LoraMethod, Tag("<lora>")]
    | Annotated[QloraMethod, Tag("<qlora>")]
    | Annotated[BottleneckMethod, Tag("<adapter>")]
    | Annotated[Ia3Method, Tag("<ia3>")]
    | Annotated[PrefixMethod, Tag("<prefix>")]
    | Annotated[PromptMethod, Tag("<prompt>")],
    Discriminator(tag_kind),
]
"""How weights become trainable, chosen by `kind`."""
