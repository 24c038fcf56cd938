"""The forms that a model can be exported in, by name: number format, how its values are chosen, and what runs it."""

from collections.abc import Mapping
from dataclasses import dataclass

from kivnun.errors import UserError
from kivnun.recipe.optimization import BLOCK_SIZES, Algorithm, OptimizationSection, Precision, Target

DEFAULT_BLOCK_SIZE = 32


@dataclass(frozen=True)
class Form:
    """One ONNX form of a model.

    Attributes:
        precision: Number format of the weights.
        algorithm: How the values of int4 and int8 weights are chosen; None for floating point.
        block_size: Weights that share one scale; None for floating point.
        target: What it runs on.
    """

    precision: Precision
    algorithm: Algorithm | None = None
    block_size: int | None = None
    target: Target = "cpu"

    @property
    def is_quantized(self) -> bool:
        """Whether weights are rounded to whole numbers."""
        return self.precision in ("int4", "int8")

    @property
    def needs_calibration(self) -> bool:
        """Whether its values depend on what the model does on rows."""
        return self.algorithm in ("gptq", "awq")

    @property
    def runs_here(self) -> bool:
        """Whether this machine's onnxruntime-genai, which computes on the CPU, runs it."""
        return self.target == "cpu"

    @property
    def folder_name(self) -> str:
        """Its folder, such as `onnx-int4`, or among candidates `onnx-int4-gptq-32`."""
        parts = ["onnx", self.precision]
        if self.is_quantized and (self.algorithm, self.block_size) != ("k_quant", DEFAULT_BLOCK_SIZE):
            parts += [str(self.algorithm), str(self.block_size)]
        return "-".join(parts if self.target == "cpu" else [*parts, self.target])

    def __str__(self) -> str:
        """Its name in tables, such as `int4 k_quant/32 ONNX`."""
        values = f" {self.algorithm}/{self.block_size}" if self.is_quantized else ""
        place = "" if self.target == "cpu" else f" for {self.target}"
        return f"{self.precision}{values} ONNX{place}"


def fitting_block_sizes(widths: Mapping[str, int]) -> tuple[int, ...]:
    """The block sizes that divide every width, in ascending order."""
    return tuple(size for size in BLOCK_SIZES if all(width % size == 0 for width in widths.values()))


def plan_forms(settings: OptimizationSection, widths: Mapping[str, int]) -> tuple[Form, ...]:
    """The forms that a recipe asks for: one, or the candidates of precision `auto`, which are measured.

    Args:
        settings: The recipe's `optimization` section.
        widths: Names and sizes of the matrices' inner dimensions, which a block must divide.

    Raises:
        UserError: `export-failed` where blocks do not fit.
    """
    target: Target = "cpu" if settings.target == "auto" else settings.target
    fitting = fitting_block_sizes(widths)
    if settings.precision in ("fp32", "fp16"):
        return (Form(settings.precision, target=target),)
    if settings.precision == "auto":
        return _candidates(target, fitting)
    given = None if settings.block_size == "auto" else settings.block_size
    block_size = given or max((size for size in fitting if size <= DEFAULT_BLOCK_SIZE), default=None)
    if block_size not in fitting:
        raise _unfit(given, widths, fitting)
    return (Form(settings.precision, settings.algorithm, block_size, target),)


def _candidates(target: Target, fitting: tuple[int, ...]) -> tuple[Form, ...]:
    """What is worth measuring for a target; blocks that do not fit are left out."""
    plain = {"cpu": "fp32", "cuda": "fp16", "directml": "fp16"}[target]
    quantized: list[tuple[Precision, Algorithm, int]] = [
        *([] if target == "directml" else [("int8", "k_quant", 32)]),
        ("int4", "rtn", 32),
        ("int4", "k_quant", 16),
        ("int4", "k_quant", 32),
        ("int4", "k_quant", 128),
        ("int4", "gptq", 32),
        ("int4", "awq", 32),
    ]
    chosen = (Form(*each, target) for each in quantized if each[2] in fitting)
    return (Form(plain, target=target), *chosen)  # type: ignore[arg-type]


def _unfit(given: int | None, widths: Mapping[str, int], fitting: tuple[int, ...]) -> UserError:
    sizes = " and ".join(f"{name} {width}" for name, width in widths.items())
    options = " or ".join(map(str, fitting))
    blocks = f"blocks of {given} weights do" if given else "no block of weights does"
    return UserError(
        "export-failed",
        f"{blocks} not fit this model ({sizes})",
        hint=f"set optimization.block_size to {options}" if fitting else "set optimization.precision to fp32",
    )
