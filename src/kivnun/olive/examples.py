"""An example of every key of Olive's files: the reference page and the tests are made from these.

An example stands in a whole, small file, so that what is shown of it is what a user gets.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final, cast

DATA, LOAD = "data_configs.0", "data_configs.0.load_dataset_config"
TEXT, LORA = "data_configs.0.pre_process_data_config", "passes.lora"
ARGUMENTS, BUILDER, SYSTEM = "passes.lora.training_args", "passes.builder", "systems.here"
AZURE, GPTQ, STORE = "systems.aml", "passes.gptq", "data_configs.0.load_dataset_config.data_files"

_CLIENT: Final = {"subscription_id": "0000", "resource_group": "group", "workspace_name": "space"}
_TWO: Final = {
    f"{LORA}.train_data_config": "rows",
    "data_configs": [
        {
            "name": "rows",
            "load_dataset_config": {"data_files": "a.json"},
            "pre_process_data_config": {"text_cols": "text"},
        },
        {"name": "held", "load_dataset_config": {"data_files": "b.json"}},
    ],
}
_NO_TEMPLATE: Final = {f"{TEXT}.text_template": None}
_EVAL: Final = {f"{LORA}.eval_dataset_size": 0.2}
_QLORA: Final = {f"{LORA}.type": "QLoRA"}
_EXPORT: Final = {BUILDER: {"type": "ModelBuilder", "precision": "int4"}}
_HERE: Final = {"systems": {"here": {"type": "LocalSystem"}}, "engine.host": "here"}
_THERE: Final = {
    "systems": {"aml": {"type": "AzureML", "aml_compute": "cluster"}},
    "engine": {"host": "aml"},
    "azureml_client": _CLIENT,
}
_IN_STORE: Final = {
    **_THERE,
    STORE: {"type": "azureml_datastore", "config": {"datastore_name": "blobs", "relative_path": "train.json"}},
}
_OLD: Final = {"input_model": {"type": "PyTorchModel", "config": {"hf_config": {"model_name": "org/model"}}}}
_HF: Final = "input_model.config.hf_config"
_REGISTRY: Final = {"type": "azureml_registry_model", "name": "phi", "registry_name": "azureml", "version": "11"}
_SPACE: Final = {"search_space": {"learning_rate": {"type": "float", "low": 1e-6, "high": 1e-3, "log": True}}}


@dataclass(frozen=True)
class Example:
    """A key with a value."""

    key: str
    """The dotted key."""
    value: object
    """Its value."""
    beside: Mapping[str, object] = field(default_factory=dict[str, object])
    """What else the file says, by dotted key; None takes a key out."""


def small_file() -> dict[str, object]:
    """The file that every example stands in."""
    return {
        "input_model": {"type": "HfModel", "model_path": "org/model"},
        "data_configs": [
            {
                "name": "rows",
                "type": "HuggingfaceContainer",
                "load_dataset_config": {"data_files": "rows.json", "split": "train"},
                "pre_process_data_config": {"text_template": "{phrase}\n{tone}"},
            }
        ],
        "passes": {"lora": {"type": "LoRA"}},
    }


def write_example(example: Example) -> dict[str, object]:
    """The whole file of an example."""
    file = small_file()
    for key, value in {**example.beside, example.key: example.value}.items():
        _put(file, key, deepcopy(value), is_removal=value is None and key != example.key)
    return file


def _put(file: dict[str, object], key: str, value: object, *, is_removal: bool) -> None:
    *above, name = key.split(".")
    group: Any = file
    for part in above:
        group = group[int(part)] if isinstance(group, list) else group.setdefault(part, {})
    if isinstance(group, list):
        cast("list[object]", group).append(value)
    elif is_removal:
        group.pop(name, None)
    else:
        group[name] = value


def _values(prefix: str, values: Mapping[str, object], beside: Mapping[str, object] | None = None) -> list[Example]:
    """Examples of the keys of one group; a tuple holds several values of one key."""
    return [
        Example(f"{prefix}.{name}" if prefix else name, value, beside or {})
        for name, several in values.items()
        for value in (cast("tuple[object, ...]", several) if isinstance(several, tuple) else (several,))
    ]


_TRUE_FALSE: Final = (True, False)

EXAMPLES: Final[Mapping[str, tuple[Example, ...]]] = {
    "The file": (
        Example("model", {"type": "PyTorchModel", "config": {"model_path": "org/model"}}, {"input_model": None}),
        Example("workflow_id", "tone"),
        Example("pass_flows", [["lora"]]),
        *_values("", {"evaluators": ({}, {"perplexity": {"metrics": []}}), "auto_optimizer_config": {}}),
        *_values("", {"pass_groups": [], "no_search": True, "user_script": "data.py"}),
        Example("training_config", {"lr_scheduler_type": "cosine"}),
        Example("azureml_client", _CLIENT),
        Example("azureml_client.subscription_id", "0000", _THERE),
        *_values("azureml_client", {"resource_group": "group", "workspace_name": "space"}, _THERE),
        *_values("azureml_client", {"aml_config_path": "config.json", "default_auth_params": {}}, _THERE),
        *_values("azureml_client", {"keyvault_name": "vault", "read_timeout": 60}, _THERE),
        *_values("azureml_client", {"max_operation_retries": 3, "operation_retry_interval": 5}, _THERE),
    ),
    "input_model": (
        *_values("input_model", {"type": ("HfModel", "ONNXModel"), "model_path": ("org/model", "models/phi-3")}),
        Example("input_model.model_path", _REGISTRY, _THERE),
        Example("input_model.model_path", _REGISTRY),
        Example("input_model.model_name", "org/model", {"input_model.model_path": None}),
        *_values("input_model", {"task": ("text-generation", "text-classification"), "adapter_path": "adapters/a"}),
        *_values("input_model", {"model_file_format": ("PyTorch.MLflow", "PyTorch.EntireModel")}),
        *_values("input_model", {"model_attributes": {"hidden_size": 64}, "io_config": {}, "generative": True}),
        *_values("input_model", {"dummy_inputs_func": "f", "model_script": "m.py", "script_dir": "src"}),
        Example("input_model.model_loader", "load"),
        Example(f"{_HF}.model_name", "org/model", _OLD),
        Example(f"{_HF}.model_path", "models/phi-3", {**_OLD, f"{_HF}.model_name": None}),
        *_values(_HF, {"task": "text-generation", "model_class": "AutoModelForCausalLM", "feature": "x"}, _OLD),
        *_values(_HF, {"adapter_path": "adapters/a", "components": [], "dataset": {}, "model_attributes": {}}, _OLD),
        *_values(_HF, {"io_config": {}, "dummy_inputs_func": "f", "generative": True, "model_loader": "f"}, _OLD),
        *_values(_HF, {"model_script": "m.py", "script_dir": "src"}, _OLD),
        *_values(f"{_HF}.model_loading_args", {"trust_remote_code": True}, _OLD),
        *_values(f"{_HF}.from_pretrained_args", {"trust_remote_code": True}, _OLD),
        *_values("input_model.load_kwargs", {"trust_remote_code": _TRUE_FALSE, "torch_dtype": ("auto", "float16")}),
        *_values("input_model.load_kwargs", {"dtype": "float16", "device_map": ("auto", "cuda:0"), "use_cache": True}),
        *_values("input_model.load_kwargs", {"attn_implementation": ("sdpa", "flash_attention_2")}),
        *_values("input_model.load_kwargs", {"low_cpu_mem_usage": True, "quantization_method": "bitsandbytes"}),
        *_values("input_model.load_kwargs", {"quantization_config": {}, "load_in_4bit": True, "load_in_8bit": True}),
        *_values("input_model.load_kwargs", {"revision": "main", "token": "x", "use_auth_token": True}),
    ),
    "data_configs": (
        *_values(DATA, {"name": "rows", "type": ("HuggingfaceContainer", "DummyDataContainer"), "components": {}}),
        *_values(DATA, {"load_dataset": {}, "params": {}, "user_script": "data.py", "script_dir": "src"}),
        *_values(DATA, {"post_process_data_config": ({}, {"type": "text_classification_post_process"})}),
        Example(f"{DATA}.dataloader_config", {"batch_size": 4}),
    ),
    "data_configs: load_dataset_config": (
        *_values(LOAD, {"data_name": "json"}),
        Example(f"{LOAD}.data_name", "org/data", {f"{LOAD}.data_files": None}),
        *_values(LOAD, {"data_files": ("rows.json", ["a.json", "b.json"], {"train": "a.json"}, "data/*.json")}),
        Example(f"{LOAD}.data_files", {"train": "a.json", "validation": "b.json"}),
        Example(f"{LOAD}.data_files", _IN_STORE[STORE], _THERE),
        Example(f"{LOAD}.data_files", _IN_STORE[STORE]),
        *_values(f"{STORE}.config", {"datastore_name": "blobs", "relative_path": "train.json"}, _IN_STORE),
        *_values(f"{STORE}.config", {"azureml_client": _CLIENT, "datastore_url": "https://x"}, _IN_STORE),
        Example(f"{STORE}.type", "azureml_datastore", _IN_STORE),
        *_values(LOAD, {"split": ("train", "train[:4096]", "train[10%:20%]", "train+test"), "data_dir": "data"}),
        Example(f"{LOAD}.subset", "en", {f"{LOAD}.data_name": "org/data", f"{LOAD}.data_files": None}),
        *_values(LOAD, {"subset": "en", "type": "huggingface_dataset", "trust_remote_code": True}),
        *_values(LOAD, {"revision": "main", "streaming": True, "cache_dir": "cache", "token": "x"}),
        *_values(LOAD, {"user_script": "data.py", "script_dir": "src"}),
    ),
    "data_configs: pre_process_data_config": (
        *_values(TEXT, {"text_template": "{phrase}\n{tone}", "text_cols": (["phrase", "tone"], ["other"])}),
        Example(f"{TEXT}.text_cols", ["phrase", "tone"], _NO_TEMPLATE),
        Example(f"{TEXT}.text_cols", "text", _NO_TEMPLATE),
        Example(f"{TEXT}.text_cols", ["body"], _NO_TEMPLATE),
        *_values(TEXT, {"chat_template": True}, _NO_TEMPLATE),
        *_values(TEXT, {"chat_template": False}),
        *_values(TEXT, {"chat_template": "{{ messages }}"}, _NO_TEMPLATE),
        Example(f"{TEXT}.message_col", "turns", {**_NO_TEMPLATE, f"{TEXT}.chat_template": True}),
        *_values(TEXT, {"message_col": "turns", "source_max_len": 2048, "max_seq_len": 1024}),
        *_values(TEXT, {"corpus_strategy": "join", "strategy": ("join", "line-by-line", "join-sliding-window")}),
        *_values(TEXT, {"dataset_type": ("corpus", "pair"), "type": "text-generation-huggingface-dataset"}),
        *_values(
            TEXT, {"task": "text-generation", "pad_to_max_len": (False, True), "use_attention_mask": (False, True)}
        ),
        *_values(TEXT, {"padding_side": "left", "drop_short_sequences": (False, True)}),
        *_values(TEXT, {"add_special_tokens": _TRUE_FALSE, "max_samples": 256, "random_seed": 7, "joiner": "\n"}),
        *_values(TEXT, {"stride": 8, "processing_batch_size": 64, "random_retries": 3, "text_formatting_func": "f"}),
        *_values(TEXT, {"user_script": "data.py", "script_dir": "src", "target_max_len": 64, "pair_format": "default"}),
        *_values(TEXT, {"input_cols": ["phrase"], "label_col": "tone"}),
    ),
    "passes: LoRA, QLoRA, DoRA": (
        *_values(LORA, {"type": ("LoRA", "QLoRA", "DoRA", "LoHa", "LoKr", "LoftQ", "lorra")}),
        *_values(LORA, {"r": 16, "lora_r": 8, "alpha": 16, "lora_alpha": 8, "lora_dropout": 0.1}),
        *_values(LORA, {"target_modules": ["q_proj", "v_proj"], "modules_to_save": (["lm_head"], [])}),
        *_values(LORA, {"weight_decay": 0.01, "torch_dtype": ("bfloat16", "float32", "float16", "int8")}),
        *_values(LORA, {"double_quant": True, "quant_type": "nf4", "compute_dtype": "bfloat16"}, _QLORA),
        *_values(LORA, {"double_quant": True, "quant_type": "nf4", "compute_dtype": "bfloat16"}),
        *_values(LORA, {"train_data_config": ("rows", "row"), "eval_dataset_size": 0.3}),
        Example(f"{LORA}.eval_data_config", "held", _TWO),
        *_values(LORA, {"training_args": {"learning_rate": 1e-4}, "bias": ("none", "all"), "device_map": "auto"}),
        *_values(LORA, {"allow_tf32": _TRUE_FALSE, "ephemeral_gpu_offload": _TRUE_FALSE, "save_quant_config": True}),
        *_values(LORA, {"use_ort_trainer": False, "ortmodule_onnx_opset_version": 16, "disable_search": True}),
        *_values(LORA, {"host": "here", "evaluator": "loss", "user_script": "m.py", "script_dir": "src"}),
    ),
    "training_args, and training_config": (
        *_values(ARGUMENTS, {"learning_rate": (1e-4, "high"), "num_train_epochs": 3, "max_steps": (100, -1)}),
        *_values(ARGUMENTS, {"per_device_train_batch_size": 4, "per_device_eval_batch_size": (4, 0)}),
        Example(f"{ARGUMENTS}.per_device_train_batch_size", 4, {f"{TEXT}.strategy": "line-by-line"}),
        *_values(ARGUMENTS, {"gradient_accumulation_steps": 4, "warmup_ratio": 0.1, "weight_decay": 0.01}),
        Example(f"{ARGUMENTS}.warmup_steps", 10, {f"{ARGUMENTS}.max_steps": 100}),
        *_values(ARGUMENTS, {"warmup_steps": 10}),
        Example(f"{ARGUMENTS}.warmup_steps", 10, {f"{ARGUMENTS}.max_steps": 100, f"{ARGUMENTS}.num_train_epochs": 3}),
        *_values(
            ARGUMENTS, {"lr_scheduler_type": ("cosine", "linear", "constant", "constant_with_warmup", "polynomial")}
        ),
        *_values(ARGUMENTS, {"lr_scheduler_kwargs": {}, "adam_beta1": 0.9, "adam_beta2": 0.95}),
        *_values(ARGUMENTS, {"adam_epsilon": (1e-8, 1e-6), "max_grad_norm": 0.3, "seed": 0, "data_seed": 7}),
        Example(f"{ARGUMENTS}.data_seed", 42, _EVAL),
        *_values(ARGUMENTS, {"bf16": _TRUE_FALSE, "fp16": _TRUE_FALSE, "tf32": True}),
        *_values(ARGUMENTS, {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {}}),
        *_values(ARGUMENTS, {"eval_strategy": ("steps", "epoch", "no"), "evaluation_strategy": "steps"}, _EVAL),
        *_values(ARGUMENTS, {"eval_strategy": ("no", "steps"), "eval_on_start": (False, True)}),
        Example(f"{ARGUMENTS}.eval_steps", 50, _EVAL),
        *_values(ARGUMENTS, {"eval_steps": 50, "save_strategy": ("steps", "epoch"), "save_steps": 100}),
        *_values(ARGUMENTS, {"save_total_limit": 2, "save_safetensors": True, "save_only_model": False}),
        *_values(ARGUMENTS, {"logging_steps": 10, "logging_strategy": "steps", "logging_first_step": True}),
        *_values(ARGUMENTS, {"logging_dir": "logs", "report_to": ("tensorboard", ["wandb", "csv"], "none", "all")}),
        *_values(ARGUMENTS, {"run_name": "tone", "optim": ("adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit")}),
        *_values(ARGUMENTS, {"optim": "adafactor", "optim_args": "x", "group_by_length": (True, False)}),
        *_values(ARGUMENTS, {"length_column_name": "length"}),
        *_values(ARGUMENTS, {"load_best_model_at_end": (True, False), "metric_for_best_model": "loss"}, _EVAL),
        *_values(ARGUMENTS, {"metric_for_best_model": "eval_loss", "greater_is_better": (False, True)}),
        *_values(ARGUMENTS, {"dataloader_num_workers": (0, 4), "dataloader_pin_memory": True}),
        *_values(ARGUMENTS, {"dataloader_prefetch_factor": 2, "dataloader_persistent_workers": True}),
        *_values(ARGUMENTS, {"dataloader_drop_last": (False, True), "output_dir": "out", "overwrite_output_dir": True}),
        *_values(ARGUMENTS, {"resume_from_checkpoint": (True, "out/checkpoint-10"), "do_train": True}),
        *_values(ARGUMENTS, {"do_eval": _TRUE_FALSE}, _EVAL),
        *_values(ARGUMENTS, {"do_eval": _TRUE_FALSE}),
        *_values(ARGUMENTS, {"do_predict": False, "remove_unused_columns": True, "prediction_loss_only": True}),
        *_values(ARGUMENTS, {"label_smoothing_factor": (0.0, 0.1), "neftune_noise_alpha": 5, "torch_compile": True}),
        *_values(ARGUMENTS, {"deepspeed": (False, "ds.json"), "fsdp": "full_shard", "fsdp_config": {}}),
        *_values(ARGUMENTS, {"ddp_find_unused_parameters": False, "use_cpu": True, "no_cuda": True}),
        *_values(ARGUMENTS, {"auto_find_batch_size": True, "disable_tqdm": True, "push_to_hub": False}),
        *_values(ARGUMENTS, {"hub_model_id": "org/model", "hub_token": "x", "trust_remote_code": True}),
    ),
    "passes: MergeAdapterWeights, ModelBuilder, OnnxConversion": (
        Example("passes.merge", {"type": "MergeAdapterWeights"}),
        *_values("passes.merge", {"type": "MergeAdapterWeights"}),
        Example(BUILDER, {"type": "ModelBuilder", "precision": "int4"}),
        *_values(BUILDER, {"type": "ModelBuilder"}, _EXPORT),
        *_values(BUILDER, {"precision": ("int4", "int8", "fp16", "fp32", "bf16"), "int4_block_size": 32}, _EXPORT),
        *_values(BUILDER, {"int4_algo_config": ("rtn", "k_quant", "k_quant_mixed")}, _EXPORT),
        *_values(BUILDER, {"int4_accuracy_level": 4, "int4_is_symmetric": True, "extra_options": {}}, _EXPORT),
        *_values(BUILDER, {"int4_op_types_to_quantize": [], "int4_nodes_to_exclude": [], "search": {}}, _EXPORT),
        *_values(BUILDER, {"metadata_only": False, "exclude_embeds": False, "exclude_lm_head": True}, _EXPORT),
        *_values(BUILDER, {"include_hidden_states": False, "enable_cuda_graph": False, "use_qdq": False}, _EXPORT),
        *_values(BUILDER, {"use_8bits_moe": False, "use_webgpu_fp32": False, "use_cuda_bf16": False}, _EXPORT),
        *_values(BUILDER, {"host": "here", "evaluator": "loss", "disable_search": True}, _EXPORT),
        *_values("passes.onnx", {"type": "OnnxConversion"}),
        *_values("passes.onnx", {"target_opset": 17, "torch_dtype": "float32"}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"device": "cpu", "host": "here"}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"use_dynamo_exporter": True}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"past_key_value_name": "past"}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"save_as_external_data": True}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"all_tensors_to_one_file": True}, {"passes.onnx.type": "OnnxConversion"}),
        *_values("passes.onnx", {"evaluator": "x", "disable_search": True}, {"passes.onnx.type": "OnnxConversion"}),
        Example("passes.half", {"type": "OnnxFloatToFloat16"}),
    ),
    "passes that quantise": (
        *(
            Example("passes.gptq.type", name)
            for name in (
                *("Rtn", "OnnxBlockWiseRtnQuantization", "OnnxMatMul4Quantizer", "KQuant", "OnnxKQuantQuantization"),
                *("Gptq", "GptqModel", "GptqQuantizer", "AutoGPTQQuantizer", "AutoAWQQuantizer"),
            )
        ),
        *_values(GPTQ, {"bits": (4, 3), "group_size": 128, "block_size": 32, "sym": True}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"is_symmetric": True, "axis": 0, "accuracy_level": 4}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"nodes_to_exclude": [], "nodes_to_include": []}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"modules_to_not_convert": [], "lm_head": True, "embeds": True}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"data_config": ("rows", "other"), "train_data_config": "rows"}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"calibration_data_config": "rows", "nsamples": 64}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"data_config": "rows", "nsamples": 64}, {f"{GPTQ}.type": "Rtn"}),
        *_values(GPTQ, {"damp_percent": 0.01, "desc_act": True, "host": "here"}, {f"{GPTQ}.type": "Gptq"}),
        *_values(GPTQ, {"evaluator": "x", "disable_search": True}, {f"{GPTQ}.type": "Gptq"}),
    ),
    "engine": (
        *_values("engine", {"search_strategy": (False, True), "host": ("local_system", "aml"), "target": "there"}),
        *_values("engine", {"output_dir": "out", "cache_dir": "cache"}),
        Example("engine.cache_dir", "out/cache", {"engine.output_dir": "out"}),
        *_values("engine", {"execution_providers": (["CPUExecutionProvider"], ["CUDAExecutionProvider"])}, _EXPORT),
        *_values("engine", {"execution_providers": (["DmlExecutionProvider"], ["QNNExecutionProvider"])}, _EXPORT),
        *_values("engine", {"execution_providers": ["CPUExecutionProvider"], "log_severity_level": (0, 9)}),
        *_values("engine", {"ort_log_severity_level": 3, "ort_py_log_severity_level": 3, "log_to_file": True}),
        *_values("engine", {"evaluator": "loss", "evaluate_input_model": _TRUE_FALSE, "plot_pareto_frontier": False}),
        *_values(
            "engine", {"no_artifacts": False, "packaging_config": {"type": "Zipfile"}, "clean_cache": _TRUE_FALSE}
        ),
        *_values("engine", {"clean_evaluation_cache": False, "enable_shared_cache": False, "cache_config": {}}),
    ),
    "systems": (
        *_values(SYSTEM, {"type": ("LocalSystem", "Docker"), "hf_token": True}, _HERE),
        *_values(SYSTEM, {"accelerators": (["gpu"], ["npu"], [{"device": "cpu"}])}, _HERE),
        Example("systems.other", {"type": "LocalSystem"}, _HERE),
        Example("systems.aml.type", "AzureML", _THERE),
        *_values(AZURE, {"aml_compute": "cluster", "accelerators": ["gpu"], "hf_token": _TRUE_FALSE}, _THERE),
        *_values(f"{AZURE}.aml_docker_config", {"base_image": "ubuntu", "conda_file_path": "conda.yaml"}, _THERE),
        *_values(f"{AZURE}.aml_docker_config", {"dockerfile": "Dockerfile", "build_context_path": "."}, _THERE),
        *_values(f"{AZURE}.aml_docker_config", {"name": "env", "version": "1"}, _THERE),
        *_values(AZURE, {"instance_count": 2, "olive_managed_env": False, "aml_environment_config": {}}, _THERE),
        *_values(AZURE, {"aml_config_path": "config.json", "azureml_client_config": {}, "resources": {}}, _THERE),
        *_values(
            AZURE, {"environment_variables": {}, "requirements_file": "r.txt", "tags": {}, "is_dev": True}, _THERE
        ),
    ),
    "search_space and search_strategy": (
        *_values("", _SPACE),
        *_values("search_strategy", {"type": ("random", "grid"), "sampler": "tpe", "num_trials": 20}, _SPACE),
        *_values(
            "search_strategy", {"max_samples": 20, "seed": 1, "execution_order": ("joint", "pass-by-pass")}, _SPACE
        ),
        *_values("search_strategy", {"output_model_num": 1, "stop_when_goals_met": True, "max_iter": 5}, _SPACE),
        *_values("search_strategy", {"max_time": 60, "include_pass_params": True}, _SPACE),
    ),
}
"""Examples by the part of the file that they stand in."""
