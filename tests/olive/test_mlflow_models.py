"""Models that are kept in MLflow's format, as the seed says of every model on Azure, through an Olive file."""

import json
import shutil
from pathlib import Path

import pytest
from olive_workshop import Workshop, call

LAYOUTS = {"mlflow": ("model", "components/tokenizer"), "azure": ("data/model", "data/tokenizer")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_in_mlflows_format_is_tuned(
    layout: str, here: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    model, tokenizer = (here / "phi" / part for part in LAYOUTS[layout])
    shutil.copytree(workshop.phi3, model)
    tokenizer.mkdir(parents=True)
    for path in model.glob("*token*"):
        path.rename(tokenizer / path.name)
    (here / "phi/MLmodel").write_text("flavors: {transformers: {model_binary: model}}\n", "utf-8")
    file = {
        "input_model": {
            "type": "PyTorchModel",
            "config": {
                "model_path": "phi",
                "model_file_format": "PyTorch.MLflow",
                "hf_config": {"task": "text-generation", "from_pretrained_args": {"trust_remote_code": True}},
            },
        },
        "data_configs": [
            {
                "name": "rows",
                "load_dataset_config": {"data_files": str(workshop.rows)},
                "pre_process_data_config": {"text_template": "{phrase}\n{tone}"},
            }
        ],
        "passes": {"lora": {"type": "LoRA", "training_args": {"max_steps": 1}}},
    }
    Path("phi.json").write_text(json.dumps(file), "utf-8")
    ended = call("run", "phi.json")
    assert ended.status == 0, ended.err
    assert (here / "runs/phi/model/adapter_model.safetensors").is_file()
