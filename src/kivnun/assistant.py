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
from kivnun.runs import content_hash, read_lock, read_manifest


@dataclass(frozen=True)
class Assistant:
    """A model with its template.

    Attributes:
        engine: What answers.
        encoder: Its tokenizer.
        template: How prompts are written.
        stop_ids: Tokens that end an answer.
        system: System message that opens every chat prompt; None for none.
    """

    engine: Engine
    encoder: Encoder
    template: PromptTemplate
    stop_ids: frozenset[int]
    system: str | None = None

    def describe(self) -> str:
        """Engine and template in a few words."""
        fields = f", prompt fields: {', '.join(self.template.prompt_fields)}" if self.template.kind == "text" else ""
        return f"engine {self.engine.name}{fields}"

    def render(self, values: Sequence[str]) -> str:
        """The prompt for some field values, one message, or the beginning of a text.

        Raises:
            UserError: `template-field` where the number of values is not the number of fields; `prompt-invalid` where
                one holds a special token's text.
        """
        names = self.template.prompt_fields if self.template.kind == "text" else ("text",)
        if len(values) != len(names):
            raise UserError(
                "template-field",
                f"the prompt has {len(names)} field(s), {', '.join(names)}; {len(values)} value(s) were given",
                hint="give one value per field, in this order, each in quotes",
            )
        for value in values:
            self.encoder.require_plain(value)
        if self.template.kind == "text":
            return self.template.render_prompt(dict(zip(names, values, strict=True)))
        if self.template.kind == "document":
            return self.encoder.end + values[0]
        return self.render_turn([], values[0])

    def render_turn(self, history: Sequence[tuple[str, str]], line: str) -> str:
        """The prompt of a chat's next turn; a model of kind `text` or `document` sees each line alone."""
        if self.template.kind != "chat":
            return self.render([line])
        self.encoder.require_plain(line)
        turns = [] if self.system is None else [{"role": "system", "content": self.system}]
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
    """The model of a run: the exported one where there is one of this very model, or what was trained.

    Args:
        run_dir: The run folder.
        engine: "onnx", "torch", or None for the exported one where there is one.

    Raises:
        UserError: `run-missing` where the run has not got that far; `model-invalid` where the base model changed.
    """
    require_current(run_dir, "model")
    if engine is None:
        engine = "onnx" if is_current(run_dir, "optimized") else "torch"
    encoder = Encoder(load_tokenizer(run_dir / "model"))
    stop_ids = read_dataset(run_dir / "dataset").stop_ids
    template = load_template(run_dir / "model")
    if engine == "onnx":
        require_current(run_dir, "optimized")
        return Assistant(OnnxEngine(onnx_folder(run_dir / "optimized")), encoder, template, stop_ids)
    model = load_tuned(_base_folder(run_dir), run_dir / "model", dtype=torch.float32)
    return Assistant(TorchEngine(model, pad_id=encoder.end_id), encoder, template, stop_ids)


def is_current(run_dir: Path, stage: str) -> bool:
    """Whether a stage is finished and was made from the stages that lie beside it now."""
    folder = run_dir / stage
    if not folder.is_dir():
        return False
    return all(content_hash(run_dir / parent) == kept for parent, kept in read_manifest(folder).parents.items())


def require_current(run_dir: Path, stage: str) -> None:
    """Refuse a stage that is missing or was made from an earlier model or data set.

    Raises:
        UserError: `run-missing`.
    """
    read_manifest(run_dir / stage)
    if not is_current(run_dir, stage):
        raise UserError(
            "run-missing",
            f"{run_dir / stage} was made from an earlier state of this run",
            hint="give the `kivnun run` command again to make it anew",
        )


def _base_folder(run_dir: Path) -> Path:
    """The folder of the very base model that `model/` was trained on."""
    trained_on = read_manifest(run_dir / "model").inputs["base_model"]
    if (run_dir / "base").is_dir() and hash_folder(run_dir / "base") == trained_on:
        return run_dir / "base"
    lock = read_lock(run_dir).base_model
    found = resolve_model(lock.name, revision=lock.revision)
    if found.content_hash != trained_on:
        raise UserError(
            "model-invalid",
            f"the base model {lock.name} is not the one that {run_dir / 'model'} was trained on",
            hint="run the recipe again, or use --engine onnx",
        )
    return found.folder
