"""A run's model as a person uses it: text in, text out, with the very template that it was trained with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset
from kivnun.data.template import PromptTemplate, load_template
from kivnun.errors import UserError
from kivnun.generation.engine import Engine
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import hash_folder, resolve_model
from kivnun.optimization.stage import onnx_folder
from kivnun.runs import read_lock, read_manifest


@dataclass(frozen=True)
class Assistant:
    """A model with its template.

    Attributes:
        engine: What answers.
        encoder: Its tokenizer.
        template: How prompts are written.
        stop_ids: Tokens that end an answer.
    """

    engine: Engine
    encoder: Encoder
    template: PromptTemplate
    stop_ids: frozenset[int]

    def describe(self) -> str:
        """Engine and template in a few words."""
        fields = f", prompt fields: {', '.join(self.template.prompt_fields)}" if self.template.kind == "text" else ""
        return f"engine {self.engine.name}{fields}"

    def render(self, values: Sequence[str]) -> str:
        """The prompt for some field values, one message, or the beginning of a text.

        Raises:
            UserError: `template-field` where the number of values is not the number of fields.
        """
        names = self.template.prompt_fields if self.template.kind == "text" else ("text",)
        if len(values) != len(names):
            raise UserError(
                "template-field",
                f"the prompt has {len(names)} field(s), {', '.join(names)}; {len(values)} value(s) were given",
                hint="give one value per field, in this order, each in quotes",
            )
        if self.template.kind == "text":
            return self.template.render_prompt(dict(zip(names, values, strict=True)))
        if self.template.kind == "document":
            return self.encoder.end + values[0]
        return self.encoder.render_chat([{"role": "user", "content": values[0]}], open_turn=True)

    def render_turn(self, history: Sequence[tuple[str, str]], line: str) -> str:
        """The prompt of a chat's next turn; a model of kind `text` or `document` sees each line alone."""
        if self.template.kind != "chat":
            return self.render([line])
        turns: list[dict[str, str]] = []
        for asked, answered in history:
            turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return self.encoder.render_chat([*turns, {"role": "user", "content": line}], open_turn=True)

    def stream(self, prompt: str, *, max_new_tokens: int, temperature: float, seed: int) -> Iterator[str]:
        """The answer in pieces of text; a letter that spans several tokens comes whole."""
        sampling = Sampling(temperature=temperature, seed=seed)
        tokens: list[int] = []
        said = ""
        stream = self.engine.stream(
            self.encoder.encode_prompt(prompt), max_new_tokens=max_new_tokens, stop_ids=self.stop_ids, sampling=sampling
        )
        for token in stream:
            tokens.append(token)
            text = self.encoder.decode(tokens)
            # An unfinished UTF-8 sequence decodes to the replacement sign; it waits for its other tokens.
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                yield text[len(said) :]
                said = text
        rest = self.encoder.decode(tokens)[len(said) :]
        if rest:
            yield rest


def open_assistant(run_dir: Path, engine: str | None) -> Assistant:
    """The model of a run: the exported one where there is one, or what was trained.

    Args:
        run_dir: The run folder.
        engine: "onnx", "torch", or None for the exported one where there is one.

    Raises:
        UserError: `run-missing` where the run has not got that far; `model-invalid` where the base model changed.
    """
    read_manifest(run_dir / "model")
    if engine is None:
        engine = "onnx" if (run_dir / "optimized").is_dir() else "torch"
    encoder = Encoder(load_tokenizer(run_dir / "model"))
    stop_ids = read_dataset(run_dir / "dataset").stop_ids
    template = load_template(run_dir / "model")
    if engine == "onnx":
        read_manifest(run_dir / "optimized")
        return Assistant(OnnxEngine(onnx_folder(run_dir / "optimized")), encoder, template, stop_ids)
    model = load_tuned(_base_folder(run_dir), run_dir / "model", dtype=torch.float32)
    return Assistant(TorchEngine(model, pad_id=encoder.end_id), encoder, template, stop_ids)


def _base_folder(run_dir: Path) -> Path:
    if (run_dir / "base").is_dir():
        return run_dir / "base"
    lock = read_lock(run_dir).base_model
    folder = resolve_model(lock.name).folder
    if lock.revision is None and hash_folder(folder) != lock.content_hash:
        raise UserError(
            "model-invalid",
            f"the base model {lock.name} changed since {run_dir} was trained on it",
            hint="run the recipe again, or use --engine onnx",
        )
    return folder
