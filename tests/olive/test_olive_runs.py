"""The seeds' two whole files with their own layers, ranks and passes, on tiny models of the same architectures."""

import json
import shutil
from pathlib import Path

from olive_files import OLIVE_JSON, changed, run_kivnun, write_olive
from olive_workshop import Workshop
from safetensors.torch import load_file

# Seed 000's olive-config.yaml, word for word but for the names and the number of steps.
DIALOGPT = """\
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
      r: 16
      lora_alpha: 32
      target_modules: ["c_attn", "c_proj"]
      modules_to_save: ["ln_f", "lm_head"]

training_config: {max_steps: 2}
"""


def short_phi_3(workshop: Workshop, folder: Path) -> Path:
    """Phi-3 with one kind of rotary embedding, as Phi-3-mini-4k has it; the builder makes two of the longer ones."""
    shutil.copytree(workshop.phi3, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["original_max_position_embeddings"] = config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def test_phi_3_is_tuned_merged_and_exported_to_int4_by_the_seeds_json(workshop: Workshop, here: Path) -> None:
    own = {"target_modules": ["o_proj", "qkv_proj"], "lora_r": 64, "lora_alpha": 64}
    model = short_phi_3(workshop, here / "phi-3")
    text = changed(OLIVE_JSON, {f"passes.lora.config.{name}": value for name, value in own.items()})
    path = write_olive(here, text, MODEL=model, ROWS=workshop.rows, OUT=here / "phi3-finetuned")
    status, out, err = run_kivnun("run", "--config", path, "--json")
    assert status == 0, err
    run = here / "phi3-finetuned"
    adapter = load_file(run / "model" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in adapter} == {"o_proj", "qkv_proj"}
    assert {weight.shape[0] for name, weight in adapter.items() if "lora_A" in name} == {64}
    (onnx,) = (folder for folder in (run / "optimized").iterdir() if folder.name.startswith("onnx"))
    assert onnx.name.startswith("onnx-int4-rtn")
    assert (onnx / "genai_config.json").is_file()
    assert any(row["becomes"] == "optimization.precision: int4" for row in json.loads(out)["translation"])


def test_dialogpt_is_tuned_by_the_seeds_yaml(workshop: Workshop, here: Path) -> None:
    path = write_olive(here, DIALOGPT, name="olive-config.yaml", MODEL=workshop.gpt2, ROWS=workshop.rows)
    status, _, err = run_kivnun("run", "--config", path)
    assert status == 0, err
    adapter = load_file(here / "runs" / "olive-config" / "model" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in adapter if "lora_A" in name} == {"c_attn", "c_proj"}
    assert any("ln_f" in name for name in adapter)
