"""The passes that merge, export and quantise: one `optimization` section together."""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Final

from kivnun.olive.groups import Group, Rule, field, never, only, opened
from kivnun.olive.meanings import refused, same
from kivnun.olive.translation import OPENED, Draft, Meaning

MERGES: Final = ("mergeadapterweights",)
EXPORTS: Final = ("modelbuilder", "onnxconversion")
QUANTISERS: Final = {
    "rtn": "rtn",
    "onnxblockwisertnquantization": "rtn",
    "onnxmatmul4quantizer": "rtn",
    "kquant": "k_quant",
    "onnxkquantquantization": "k_quant",
    "gptq": "gptq",
    "gptqmodel": "gptq",
    "gptqquantizer": "gptq",
    "autogptqquantizer": "gptq",
    "autoawqquantizer": "awq",
}
"""Passes that quantise, with the recipe's algorithm."""
_CONVERTERS: Final = {"onnxfloattofloat16": "fp16"}
"""Passes that change the number format of an exported model."""
_BUILDER = "the model builder exports language models; write ModelBuilder"
REFUSED_PASSES: Final = {
    "optimumconversion": _BUILDER,
    "mobiusbuilder": _BUILDER,
    "optimummerging": f"decoders are never in two parts; {_BUILDER}",
    "orttransformersoptimization": f"the exported model is fused already; remove it, and {_BUILDER}",
    "onnxtransformersoptimization": f"the exported model is fused already; remove it, and {_BUILDER}",
    "onnxpeepholeoptimizer": "the exported model is fused already; remove it",
    "onnxhqqquantization": "HQQ is not made here; write OnnxKQuantQuantization",
    "onnxbnb4quantization": "weights of bitsandbytes are not exported; write OnnxKQuantQuantization",
    "onnxstaticquantization": "activations are not quantised; write ModelBuilder with precision int4 or int8",
    "onnxdynamicquantization": "activations are not quantised; write ModelBuilder with precision int4 or int8",
    "onnxquantization": "activations are not quantised; write ModelBuilder with precision int4 or int8",
    "incquantization": "Neural Compressor is not used; write OnnxKQuantQuantization",
    "quarot": "QuaRot is not made here; write Gptq or AutoAWQQuantizer",
    "spinquant": "SpinQuant is not made here; write Gptq or AutoAWQQuantizer",
    "autoclip": "AutoClip is not made here; write AutoAWQQuantizer",
    "selectivemixedprecision": "one format holds for all layers; `optimization.precision: auto` measures several",
    "slicegpt": "models are not pruned; write ModelBuilder with precision int4",
    "sparsegpt": "models are not pruned; write ModelBuilder with precision int4",
    "extractadapters": "an adapter stays beside its base by `kivnun generate-adapter`; remove it",
    "matmulnbitstoqdq": "QDQ nodes are not made; remove it",
    "graphsurgeries": "exported graphs are not edited; remove it",
    "ortsessionparamstuning": "`optimization.precision: auto` measures on this machine; remove it",
    "ortperftuning": "`optimization.precision: auto` measures on this machine; remove it",
    "onnxdiscrepancycheck": "parity with the tuned model is always checked; remove it",
    "splitmodel": "models are not split; remove it",
    "captureonnxgraph": _BUILDER,
}
"""Passes without a counterpart, with what to write instead."""
EXPORT_PASSES: Final = (*MERGES, *EXPORTS, *QUANTISERS, *_CONVERTERS)


@dataclass
class Export:
    """What the passes ask for together.

    Attributes:
        precisions: Key, Olive's value and the recipe's, of every number format that is named.
        settings: Whether an algorithm or a block size is said.
        merge_key: The key of the pass that merges.
    """

    precisions: list[tuple[str, object, str]] = dataclass_field(default_factory=list[tuple[str, object, str]])
    settings: set[str] = dataclass_field(default_factory=set[str])
    merge_key: str = ""


def take_exports(draft: Draft, passes: dict[str, Group], types: dict[str, str], trained: str) -> None:
    """Take every pass that merges, exports or quantises.

    Args:
        draft: Takes what they mean.
        passes: These passes.
        types: Their types in small letters.
        trained: Name of the data configuration that is trained on.
    """
    export = Export()
    for name, group in passes.items():
        kind = types[name]
        if kind in MERGES:
            export.merge_key = group.key
            group.take({"type": only((group.get("type"),), "merged before the export", "")}, "MergeAdapterWeights")
        elif kind == "modelbuilder":
            group.take(builder_rules(export, group), "ModelBuilder")
            if "precision" not in group.entries:
                export.precisions.append((f"{group.key}.precision", "fp32", "fp32"))
        elif kind == "onnxconversion":
            export.precisions.append((f"{group.key}.type", group.get("type"), "fp32"))
            group.take(CONVERSION_RULES, "OnnxConversion")
        elif kind in _CONVERTERS:
            export.precisions.append((f"{group.key}.type", group.get("type"), _CONVERTERS[kind]))
            group.take({"type": opened}, str(group.get("type")))
        else:
            group.take(quantiser_rules(export, group, kind, trained), str(group.get("type")))
            if "bits" not in group.entries:
                export.precisions.append((f"{group.key}.bits", 4, "int4"))
    _finish(draft, export)


def _finish(draft: Draft, export: Export) -> None:
    if not export.precisions:
        if export.merge_key:
            note = "the merged model is in optimized/merged; an fp32 ONNX model is built beside it"
            draft.add(export.merge_key, "", Meaning("default", {"optimization.precision": "fp32"}, note))
        return
    # A conversion to fp32 is a step on the way to what another pass makes of it.
    shipped = next((each for each in export.precisions if each[2] != "fp32"), export.precisions[0])
    for key, value, precision in export.precisions:
        if (key, value, precision) == shipped:
            draft.add(key, value, Meaning("renamed", {"optimization.precision": precision}))
        elif precision in ("fp32", shipped[2]):
            draft.add(key, value, Meaning("used", note=f"on the way to {shipped[2]}, by {shipped[0]}"))
        else:
            draft.refuse(key, f"makes {precision}, where {shipped[0]} makes {shipped[2]}; keep one of them")
    if shipped[2] in ("int4", "int8") and "algorithm" not in export.settings:
        note = "as Olive rounds; k_quant loses less"
        key = f"{shipped[0].rpartition('.')[0]}.algorithm"
        draft.add(key, "rtn", Meaning("default", {"optimization.algorithm": "rtn"}, note))
    if not export.merge_key:
        draft.notes.append("The adapter is merged before the export, as MergeAdapterWeights does; it is kept as well.")


def builder_rules(export: Export, group: Group) -> dict[str, Rule]:
    """What the keys of ModelBuilder become."""

    def precision(value: object) -> Meaning:
        if value not in ("int4", "int8", "fp16", "fp32"):
            return refused(f"{value!r} is not exported; write int4, int8, fp16 or fp32")
        export.precisions.append((group.entries["precision"].key, value, str(value)))
        return OPENED

    def algorithm(value: object) -> Meaning:
        algorithms = {"default": "rtn", "rtn": "rtn", "k_quant": "k_quant"}
        if str(value) not in algorithms:
            return refused(f"{value!r} mixes formats; write rtn or k_quant")
        export.settings.add("algorithm")
        return Meaning("renamed", {"optimization.algorithm": algorithms[str(value)]})

    off = "is off"
    return {
        "type": only((group.get("type"),), "ONNX through onnxruntime-genai's builder", ""),
        "precision": precision,
        "int4_block_size": field("optimization.block_size"),
        "int4_algo_config": algorithm,
        "int4_accuracy_level": never("is chosen for the target; remove it"),
        "int4_is_symmetric": never("is chosen by the algorithm; remove it"),
        "int4_op_types_to_quantize": never("all matrices are quantised; remove it"),
        "int4_nodes_to_exclude": never("all matrices are quantised; remove it"),
        "metadata_only": only((False,), "the model is exported", "the model is always exported; remove it"),
        "exclude_embeds": only((False,), off, "the whole model is exported; remove it"),
        "exclude_lm_head": only((False,), off, "the whole model is exported; remove it"),
        "include_hidden_states": only((False,), off, "logits alone are an output; remove it"),
        "enable_cuda_graph": only((False,), off, "cannot be chosen; remove it"),
        "use_qdq": only((False,), off, "QDQ nodes are not made; remove it"),
        "use_8bits_moe": only((False,), off, "cannot be chosen; remove it"),
        "use_webgpu_fp32": only((False,), off, "WebGPU is no target; remove it"),
        "use_cuda_bf16": only((False,), off, "cannot be chosen; remove it"),
        "extra_options": only(({}, None), "none", "the builder's options are chosen for the target; remove it"),
        "search": never("answers are generated by the recipe of whoever asks; remove it"),
        **_OUTSIDE,
    }


_OUTSIDE: Final[dict[str, Rule]] = {
    "host": never("a run is computed in one place; write engine.host"),
    "evaluator": never("write an `evaluation` section in the recipe"),
    "disable_search": only((True,), "nothing is searched", "`optimization.precision: auto` tries several; remove it"),
}

CONVERSION_RULES: Final[dict[str, Rule]] = {
    "type": opened,
    "target_opset": never("the model builder chooses the opset; remove it"),
    "torch_dtype": only(("float32", None), "exported in fp32", "write OnnxFloatToFloat16, or ModelBuilder with fp16"),
    "device": never("the device is found by itself; remove it"),
    "use_dynamo_exporter": never("the model builder exports; remove it"),
    "past_key_value_name": never("the model builder names inputs; remove it"),
    "save_as_external_data": only((True,), "weights lie beside the graph", "weights always lie beside it; remove it"),
    "all_tensors_to_one_file": only((True,), "weights lie in one file", "weights always lie in one file; remove it"),
    **_OUTSIDE,
}


def quantiser_rules(export: Export, group: Group, kind: str, trained: str) -> dict[str, Rule]:
    """What the keys of a pass that quantises become."""

    def bits(value: object) -> Meaning:
        if value not in (4, 8) or isinstance(value, bool):
            return refused(f"{value!r} bits are not made; write 4 or 8")
        export.precisions.append((group.entries["bits"].key, value, f"int{value}"))
        return OPENED

    def algorithm(value: object) -> Meaning:
        export.settings.add("algorithm")
        del value
        return Meaning("renamed", {"optimization.algorithm": QUANTISERS[kind]})

    def rows(value: object) -> Meaning:
        if value != trained:
            return refused("calibration looks at training rows; name the training data, or remove it")
        return same("calibration looks at training rows")

    symmetric = never("is chosen by the algorithm; remove it")
    is_calibrated = kind not in ("rtn", "onnxblockwisertnquantization", "kquant", "onnxkquantquantization")
    no_rows = never("has no effect: nothing is calibrated; remove it")
    return {
        "type": algorithm,
        "bits": bits,
        "group_size": field("optimization.block_size"),
        "block_size": field("optimization.block_size", name="block_size"),
        "sym": symmetric,
        "is_symmetric": symmetric,
        "axis": symmetric,
        "accuracy_level": never("is chosen for the target; remove it"),
        "nodes_to_exclude": never("all matrices are quantised; remove it"),
        "nodes_to_include": never("all matrices are quantised; remove it"),
        "modules_to_not_convert": never("all matrices are quantised; remove it"),
        "lm_head": never("is quantised as the builder does; remove it"),
        "embeds": never("is quantised as the builder does; remove it"),
        "data_config": rows if is_calibrated else no_rows,
        "train_data_config": rows if is_calibrated else no_rows,
        "calibration_data_config": rows if is_calibrated else no_rows,
        "nsamples": field("optimization.calibration_rows") if is_calibrated else no_rows,
        "damp_percent": never("cannot be chosen; remove it"),
        "desc_act": never("cannot be chosen; remove it"),
        **_OUTSIDE,
    }
