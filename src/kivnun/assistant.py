"""A run's model as a person uses it: text in, text out, with the very template that it was trained with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kivnun.data.encode import Encoder
from kivnun.data.folder import read_dataset
from kivnun.data.template import TEMPLATE_NAME, PromptTemplate, load_template
from kivnun.data.tokens import TokenizedRow, TokenTable, make_table
from kivnun.errors import UserError
from kivnun.generation.adapter_list import read_list
from kivnun.generation.engine import Engine
from kivnun.generation.onnx_engine import OnnxEngine
from kivnun.generation.sampling import Sampling
from kivnun.generation.torch_engine import TorchEngine
from kivnun.methods import load_tuned
from kivnun.models.attention import use_packed_attention
from kivnun.models.heads import Head, read_head
from kivnun.models.load import load_tokenizer
from kivnun.models.resolve import hash_folder, resolve_model
from kivnun.models.types import Model
from kivnun.optimization.adapter_sources import CHAT_TEMPLATE_NAME, read_stop_ids
from kivnun.optimization.adapters import own_folder
from kivnun.optimization.certificate import onnx_folder
from kivnun.runs import content_hash, read_lock, read_manifest, verify_artifact
from kivnun.training.classify import class_log_probabilities
from kivnun.training.embed import embed_table

HEAD_BATCH_TOKENS = 8192
# Up to this size a folder is hashed before it answers, which takes a second; a larger one is taken as it is.
CHECKED_BYTES = 512 * 2**20


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
        return render_prompt(self.template, self.encoder, values, system=self.system)

    def render_turn(self, history: Sequence[tuple[str, str]], line: str) -> str:
        """The prompt of a chat's next turn; a model of kind `text` or `document` sees each line alone."""
        if self.template.kind != "chat":
            return self.render([line])
        return _render_turns(self.encoder, history, line, self.system)

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


def render_prompt(
    template: PromptTemplate, encoder: Encoder, values: Sequence[str], *, system: str | None = None
) -> str:
    """The prompt for some field values, one message, or the beginning of a text.

    Args:
        template: How prompts are written.
        encoder: The model's tokenizer.
        values: A value for each field of the template; else one text.
        system: System message that opens a chat prompt; None for none.

    Raises:
        UserError: `template-field` where the number of values is not the number of fields; `prompt-invalid` where
            one holds a special token's text.
    """
    names = template.prompt_fields if template.kind == "text" else ("text",)
    if len(values) != len(names):
        raise UserError(
            "template-field",
            f"the prompt has {len(names)} field(s), {', '.join(names)}; {len(values)} value(s) were given",
            hint="give one value per field, in this order, each in quotes",
        )
    for value in values:
        encoder.require_plain(value)
    if template.kind == "text":
        return template.render_prompt(dict(zip(names, values, strict=True)))
    if template.kind == "document":
        return encoder.end + values[0]
    return _render_turns(encoder, [], values[0], system)


def _render_turns(encoder: Encoder, history: Sequence[tuple[str, str]], line: str, system: str | None) -> str:
    encoder.require_plain(line)
    turns = [] if system is None else [{"role": "system", "content": system}]
    for asked, answered in history:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return encoder.render_chat([*turns, {"role": "user", "content": line}], open_turn=True)


@dataclass(frozen=True)
class HeadedModel:
    """A run's classifier or embedding model.

    Attributes:
        model: The model, with packed attention switched on.
        head: Its head.
        encoder: Its tokenizer.
        template: How prompts were written.
    """

    model: Model
    head: Head
    encoder: Encoder
    template: PromptTemplate

    def classify(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label for prompts as `render_prompt` writes them.

        Raises:
            UserError: `prompt-invalid` for a prompt without a token, or longer than the model was trained for.
        """
        table = self._encode(prompts)
        log_p_DL = class_log_probabilities(self.model, table, batch_tokens=HEAD_BATCH_TOKENS)
        return [dict(zip(self.head.labels, row, strict=True)) for row in log_p_DL.exp().tolist()]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The embedding of each text, shape (texts, width); of length 1 where a cosine compares them.

        Raises:
            UserError: As for `classify`.
        """
        return self._embed(self._encode(texts))

    def embed_tokens(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The same of texts in tokens, of which each has as many as the model was trained for, or fewer."""
        return self._embed(make_table(TokenizedRow(list(tokens), [False] * len(tokens)) for tokens in ids))

    def _embed(self, table: TokenTable) -> NDArray[np.float32]:
        vectors = embed_table(self.model, table, pooling=self.head.pooling, batch_tokens=HEAD_BATCH_TOKENS)
        if self.head.similarity == "cosine":
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        return vectors.cpu().numpy()

    def _encode(self, texts: Sequence[str]) -> TokenTable:
        ids = [self.encoder.encode_prompt(text) for text in texts]
        for number, (text, tokens) in enumerate(zip(texts, ids, strict=True), start=1):
            if not 0 < len(tokens) <= self.head.max_seq_len:
                problem = f"text {number} has {len(tokens)} tokens: {text[:40]!r}"
                hint = f"give a text of 1 to {self.head.max_seq_len} tokens, as in training"
                raise UserError("prompt-invalid", problem, hint=hint)
        return make_table(TokenizedRow(tokens, [False] * len(tokens)) for tokens in ids)


def open_headed(run_dir: Path, kind: str) -> HeadedModel:
    """The classifier or embedding model of a run.

    Args:
        run_dir: The run folder.
        kind: `classification` or `embedding`.

    Raises:
        UserError: `stage-unsupported` where the run trained another kind of model; else as for `open_assistant`.
    """
    require_current(run_dir, "model")
    head = read_head(run_dir / "model")
    if head is None or head.kind != kind:
        has = "a model that generates text" if head is None else f"a model for {head.kind}"
        raise UserError("stage-unsupported", f"{run_dir} holds {has}, not one for {kind}", hint=_use_of(head, run_dir))
    model = load_tuned(base_folder(run_dir), run_dir / "model", dtype=torch.float32)
    use_packed_attention(model)
    return HeadedModel(model, head, Encoder(load_tokenizer(run_dir / "model")), load_template(run_dir / "model"))


def is_classifier(run_dir: Path) -> bool:
    """Whether a run trained a classifier."""
    head = read_head(run_dir / "model")
    return head is not None and head.kind == "classification"


def _use_of(head: Head | None, run_dir: Path) -> str:
    if head is not None and head.kind == "embedding":
        return f"its vectors come from `kivnun embed {run_dir} TEXT`"
    return f"ask it with `kivnun generate {run_dir} TEXT`"


def open_assistant(run_dir: Path, engine: str | None) -> Assistant:
    """The model of a run: the exported one where there is one of this very model, or what was trained.

    Args:
        run_dir: The run folder.
        engine: "onnx", "torch", or None for the exported one where there is one.

    Raises:
        UserError: `run-missing` where the run has not got that far; `model-invalid` where the base model changed;
            `stage-unsupported` for a model with a head that writes no text.
    """
    require_current(run_dir, "model")
    head = read_head(run_dir / "model")
    if head is not None:
        what = "a classifier, which answers with a label" if head.labels else "an embedding model, which writes no text"
        raise UserError("stage-unsupported", f"{run_dir} holds {what}", hint=_use_of(head, run_dir))
    if engine is None:
        engine = "onnx" if is_current(run_dir, "optimized") else "torch"
    encoder = Encoder(load_tokenizer(run_dir / "model"))
    stop_ids = read_dataset(run_dir / "dataset").stop_ids
    template = load_template(run_dir / "model")
    if engine == "onnx":
        require_current(run_dir, "optimized")
        return Assistant(OnnxEngine(onnx_folder(run_dir / "optimized")), encoder, template, stop_ids)
    model = load_tuned(base_folder(run_dir), run_dir / "model", dtype=torch.float32)
    return Assistant(TorchEngine(model, pad_id=encoder.end_id), encoder, template, stop_ids)


def open_shared(folder: Path, adapter: str | None) -> Assistant:
    """A model that adapters share, with one of them, or the base model alone.

    Args:
        folder: Made by `kivnun generate-adapter`.
        adapter: Name of the adapter; None for the base model, which continues texts, or chats if it has a template.

    Raises:
        UserError: `adapter-unknown`, with the names that there are; `model-invalid` or `artifact-damaged`.
    """
    adapters = read_list(folder)
    tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer)
    chats = (folder / CHAT_TEMPLATE_NAME).is_file()
    template = PromptTemplate("chat") if chats else PromptTemplate("document", column="text")
    if adapter is None:
        return Assistant(OnnxEngine(folder), encoder, template, read_stop_ids(folder, encoder.end_id))
    record = adapters.find(adapter, folder)
    own = own_folder(folder, adapter)
    if (own / CHAT_TEMPLATE_NAME).is_file():
        tokenizer.chat_template = (own / CHAT_TEMPLATE_NAME).read_text("utf-8")
    if (own / TEMPLATE_NAME).is_file():
        template = load_template(own)
    elif (own / CHAT_TEMPLATE_NAME).is_file():
        template = PromptTemplate("chat")
    return Assistant(OnnxEngine(folder).with_adapter(adapter), encoder, template, frozenset(record.stop_ids))


def is_current(run_dir: Path, stage: str) -> bool:
    """Whether a stage is finished and was made from the stages that lie beside it now."""
    folder = run_dir / stage
    if not folder.is_dir():
        return False
    return all(content_hash(run_dir / parent) == kept for parent, kept in read_manifest(folder).parents.items())


def require_current(run_dir: Path, stage: str) -> None:
    """Refuse a stage that is missing or was made from an earlier model or data set.

    Raises:
        UserError: `run-missing`; `artifact-damaged` where a file is not as it was written.
    """
    manifest = read_manifest(run_dir / stage)
    if sum(record.size_bytes for record in manifest.files.values()) <= CHECKED_BYTES:
        verify_artifact(run_dir / stage)
    if not is_current(run_dir, stage):
        raise UserError(
            "run-missing",
            f"{run_dir / stage} was made from an earlier state of this run",
            hint="give the `kivnun run` command again to make it anew",
        )


def base_folder(run_dir: Path) -> Path:
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
