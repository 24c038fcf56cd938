"""The parts of a causal language model that methods speak of: its decoder layers, and what stands behind them."""

from torch import nn

from kivnun.errors import UserError
from kivnun.models.types import Model

# Last parts of the names of the projections that end the two halves of a decoder layer, right before what they give is
# added to the residual stream, in the architectures that transformers knows.
_ATTENTION_OUTPUTS = frozenset(("o_proj", "out_proj", "c_proj", "dense", "wo"))
_FEED_FORWARD_OUTPUTS = frozenset(("down_proj", "c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo"))


def find_decoder_layers(model: Model) -> tuple[str, list[str]]:
    """The name of the module that holds the decoder layers, and the layers' own names, first to last.

    Raises:
        UserError: `stage-unsupported` where the architecture keeps them in another way.
    """
    num_layers = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return name.rpartition(".")[0], [f"{name}.{index}" for index in range(len(module))]
    raise _unsupported(f"{type(model).__name__} keeps its decoder layers in another way than a list of them")


def find_final_norms(model: Model, parent: str) -> list[str]:
    """Names of the norms behind the last decoder layer: those beside the list of layers, but the embeddings' own."""
    beside = model.get_submodule(parent).named_children()
    norms = [name for name, _ in beside if ("norm" in name or name.startswith("ln")) and "embed" not in name]
    return [f"{parent}.{name}" if parent else name for name in norms]


def find_block_outputs(model: Model) -> list[tuple[str, str]]:
    """Each decoder layer's output projections: (that of the attention, that of the feed-forward).

    Raises:
        UserError: `stage-unsupported` where a layer has none or more than one, as a mixture of experts has.
    """
    size = getattr(model.config, "hidden_size", None)
    pairs: list[tuple[str, str]] = []
    for layer in find_decoder_layers(model)[1]:
        attention: list[str] = []
        feed_forward: list[str] = []
        for name, module in model.get_submodule(layer).named_modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.ndim != 2 or size not in weight.shape:
                continue
            is_attention = "attn" in name or "attention" in name
            last = name.rpartition(".")[2]
            if is_attention and last in _ATTENTION_OUTPUTS:
                attention.append(f"{layer}.{name}")
            elif not is_attention and last in _FEED_FORWARD_OUTPUTS:
                feed_forward.append(f"{layer}.{name}")
        if len(attention) != 1 or len(feed_forward) != 1:
            counts = f"{len(attention)} attention and {len(feed_forward)} feed-forward outputs"
            raise _unsupported(f"{layer} of {type(model).__name__} has {counts} known by name, and needs one of each")
        pairs.append((attention[0], feed_forward[0]))
    return pairs


def _unsupported(problem: str) -> UserError:
    return UserError(
        "stage-unsupported",
        f"this method does not know the architecture: {problem}",
        hint="use method.kind: lora, or a base model of the Llama, Mistral, Qwen, Gemma 1, Phi-3 or GPT-2 family",
    )
