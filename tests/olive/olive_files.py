"""The seeds' files put together, with the names of local things, and what the command line makes of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from kivnun.cli.app import app
from kivnun.errors import UserError
from kivnun.olive.files import OliveFile, read_olive_file
from kivnun.olive.translate import translate_file
from kivnun.olive.translation import KeyLine, Translation

TONES = ("joy", "sadness", "fear", "surprise")
PLACES = ("sun", "rain", "night", "wind", "stars", "sea", "road", "song")

# Seed 004, sections 1, 3 and 4, and its engine, in their own spelling.
OLIVE_JSON = """\
{
    "input_model":{
        "type": "PyTorchModel",
        "config": {
            "hf_config": {
                "model_name": "MODEL",
                "task": "text-generation",
                "model_loading_args": {
                    "trust_remote_code": true
                }
            }
        }
    },
    "data_configs": [
        {
            "name": "dataset_default_train",
            "type": "HuggingfaceContainer",
            "load_dataset_config": {
                "params": {
                    "data_name": "json",
                    "data_files":"ROWS",
                    "split": "train"
                }
            },
            "pre_process_data_config": {
                "params": {
                    "dataset_type": "corpus",
                    "text_cols": [
                            "phrase",
                            "tone"
                    ],
                    "text_template": "### Text: {phrase}\\n### The tone is:\\n{tone}",
                    "corpus_strategy": "join",
                    "source_max_len": 64,
                    "pad_to_max_len": false,
                    "use_attention_mask": false
                }
            }
        }
    ],
    "passes": {
        "lora": {
            "type": "LoRA",
            "config": {
                "target_modules": [
                    "o_proj",
                    "q_proj"
                ],
                "lora_r": 8,
                "lora_alpha": 8,
                "lora_dropout": 0.1,
                "train_data_config": "dataset_default_train",
                "eval_dataset_size": 0.3,
                "training_args": {
                    "seed": 0,
                    "data_seed": 42,
                    "per_device_train_batch_size": 1,
                    "per_device_eval_batch_size": 1,
                    "gradient_accumulation_steps": 4,
                    "gradient_checkpointing": false,
                    "learning_rate": 0.0001,
                    "num_train_epochs": 3,
                    "max_steps": 3,
                    "logging_steps": 10,
                    "evaluation_strategy": "steps",
                    "eval_steps": 187,
                    "group_by_length": true,
                    "adam_beta2": 0.999,
                    "max_grad_norm": 0.3
                }
            }
        },
        "merge_adapter_weights": {
            "type": "MergeAdapterWeights"
        },
        "builder": {
            "type": "ModelBuilder",
            "config": {
                "precision": "int4"
            }
        }
    },
    "engine": {
        "log_severity_level": 0,
        "search_strategy": false,
        "execution_providers": ["CPUExecutionProvider"],
        "cache_dir": "OUT/cache",
        "output_dir" : "OUT"
    }
}
"""

# Seed 000's olive-config.yaml, with a regularisation block of the same seed and fewer steps.
OLIVE_YAML = """\
# olive-config.yaml
model:
  type: PyTorchModel
  config:
    model_path: "MODEL"
    task: "text-generation"

data_configs:
  - name: "custom_dataset"
    type: "HuggingfaceContainer"
    load_dataset_config:
      data_files: "ROWS"
      split: "train"
    pre_process_data_config:
      text_template: "User: {phrase}\\nAssistant: {tone}"

passes:
  lora:
    type: LoRA
    config:
      r: 16  # Reduce rank to prevent overfitting
      lora_alpha: 16  # Lower alpha value
      lora_dropout: 0.1  # Add dropout
      weight_decay: 0.01  # L2 regularization
      target_modules: ["q_proj", "o_proj"]
      modules_to_save: ["lm_head"]

training_config:
  max_steps: 2
"""


def write_rows(path: Path, *, number: int = 24) -> Path:
    """Rows such as the seed's, in one JSON array."""
    rows = [{"phrase": f"the {PLACES[n % 8]} of day {n}", "tone": TONES[n % 4]} for n in range(number)]
    path.write_text(json.dumps(rows), "utf-8")
    return path


def write_olive(folder: Path, text: str, *, name: str = "olive.json", **names: object) -> Path:
    """Write a file of the seeds with the words in capitals replaced."""
    for word, value in names.items():
        text = text.replace(word, str(value))
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def changed(text: str, changes: Mapping[str, object]) -> str:
    """JSON text with the values of some dotted keys replaced; None takes a key out."""
    value: Any = json.loads(text)
    for key, new in changes.items():
        *above, name = key.split(".")
        group = value
        for part in above:
            group = group[int(part)] if isinstance(group, list) else group.setdefault(part, {})
        if new is None:
            del group[name]
        else:
            group[name] = new
    return json.dumps(value, indent=1)


def translate(path: Path) -> Translation:
    """The translation of a file that is one of Olive's."""
    file = read_olive_file(path)
    assert isinstance(file, OliveFile)
    return translate_file(file)


def refusal(path: Path) -> UserError:
    """The error of a file that is refused."""
    try:
        translate(path)
    except UserError as error:
        return error
    raise AssertionError("the file was not refused")


def line_of(translation: Translation, end: str) -> KeyLine:
    """The line of the one key that ends like this."""
    (line,) = (line for line in translation.lines if line.key.endswith(end))
    return line


def run_kivnun(*words: str | Path) -> tuple[int, str, str]:
    """Status, output and messages of a command, in this process."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        return 2, result.stdout, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr
