"""The `optimization` section: the forms in which a tuned model is shipped, and what they may cost."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from kivnun.recipe import rules
from kivnun.recipe.values import (
    NonNegativeNumber,
    PositiveNumber,
    PositiveWhole,
    Section,
    Share,
    Text,
    Whole,
    tag_number,
)

Precision = Literal["fp32", "fp16", "int8", "int4"]
"""Number formats of an exported model's weights."""
Algorithm = Literal["rtn", "k_quant", "gptq", "awq"]
"""How the values of int4 and int8 weights are chosen."""
Target = Literal["cpu", "cuda", "directml"]
"""What an exported model runs on."""
GgufPrecision = Literal["f32", "f16", "q8_0", "q4_0"]
"""Number formats of a GGUF file's weights."""

BLOCK_SIZES = (16, 32, 64, 128, 256)
SIZE_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size_bytes(text: str) -> int:
    """The bytes that a size such as `2GiB` or `500 MB` stands for.

    Raises:
        ValueError: For anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B)", text)
    if match is None or match[2] not in SIZE_UNITS or float(match[1]) == 0:
        raise ValueError(text)
    return int(float(match[1]) * SIZE_UNITS[match[2]])


def relative_score(text: str) -> float:
    """The factor that a bound such as `0.98x` stands for.

    Raises:
        ValueError: For anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x", text)
    if match is None or not 0 < float(match[1]) <= 1:
        raise ValueError(text)
    return float(match[1])


def _check_size(text: str) -> str:
    try:
        size_bytes(text)
    except ValueError as error:
        raise PydanticCustomError("size", "input should be a size such as 2GiB or 500MB") from error
    return text


def _check_relative(text: str) -> str:
    try:
        relative_score(text)
    except ValueError as error:
        raise PydanticCustomError("relative", "input should be a share of the tuned model's score, as 0.98x") from error
    return text


Size = Annotated[Text, AfterValidator(_check_size)]
"""A number of bytes with its unit, such as `2GiB`."""

ScoreBound = Annotated[
    Annotated[Text, AfterValidator(_check_relative), Tag("<text>")] | Annotated[Share, Tag("<number>")],
    Discriminator(tag_number),
]
"""A score, such as 0.9, or a share of the tuned model's own, such as `0.98x`."""

BlockSize = Annotated[
    Annotated[Literal["auto"], Tag("<text>")] | Annotated[Literal[16, 32, 64, 128, 256], Tag("<number>")],
    Discriminator(tag_number),
]
"""A number of weights, or as it fits the model's matrices."""


class OptimizationSection(Section):
    """The model that is shipped: merged, exported, measured, and compared with what was evaluated."""

    precision: Literal["auto", "fp32", "fp16", "int8", "int4"] = "int4"
    """Number format of the exported weights; `auto` builds several candidates, measures them on this machine, and \
takes one."""
    algorithm: Algorithm = "k_quant"
    """How int4 and int8 weights are chosen: rounded to the nearest (rtn), by least squares (k_quant), or by what the \
model does on training rows (gptq, Frantar et al. 2022, arXiv:2210.17323; awq, Lin et al. 2023, arXiv:2306.00978)."""
    block_size: BlockSize = "auto"
    """Number of int4 or int8 weights that share one scale; auto takes 32, or the largest smaller one that fits."""
    target: Literal["auto", "cpu", "cuda", "directml"] = "auto"
    """What the model will run on; auto is this machine. Forms for another machine are built here and checked there, \
by `kivnun verify`."""
    calibration_rows: Annotated[Whole, Field(ge=1)] = 128
    """Training rows that gptq and awq look at."""
    gguf: GgufPrecision | None = None
    """Also write a GGUF file with weights in this format, for llama.cpp and Ollama; none if not given."""
    max_size: Size | None = None
    """Largest folder of a shipped model, such as `2GiB`."""
    min_score: ScoreBound | None = None
    """Lowest score on the test rows: a score such as 0.9, or a share of the tuned model's own, such as `0.98x`."""
    max_latency_ms: PositiveNumber | None = None
    """Longest median time to the first token, in milliseconds, on this machine."""
    min_tokens_per_second: PositiveNumber | None = None
    """Lowest rate of generated tokens for one request, on this machine."""
    max_memory: Size | None = None
    """Most memory while answering, such as `4GiB`, on this machine."""
    golden_prompts: PositiveWhole = 500
    """Most test prompts that every form must answer like the tuned model; they are kept with the model."""
    divergence_prompts: PositiveWhole = 32
    """Prompts among them on which the distance of the predicted distributions is measured too."""
    tie_tolerance: NonNegativeNumber = 1e-3
    """Difference of two logits up to which either token counts as the best; it must hold in both forms compared."""
    min_agreement: Share | None = None
    """Share of test answers that must stay the same in every quantised form; reported but not enforced if not given."""
    max_divergence: PositiveNumber | None = None
    """Largest mean Kullback-Leibler divergence per token, in nats, of every quantised form from the tuned model; \
reported but not enforced if not given."""

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        rules.refuse(rules.check_optimization(self))
        return self
