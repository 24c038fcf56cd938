"""A training put together: the base model with its head and method, rows, objective, optimizer: ready for its loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.data.encode import Encoder
from kivnun.data.folder import Dataset, StoredRow, sample_rows
from kivnun.errors import UserError
from kivnun.evaluation.while_training import score_while_training
from kivnun.generation.torch_engine import TorchEngine
from kivnun.inputs import fit_context
from kivnun.methods import BaseModelName, Method, learning_rate_scales, make_method, vector_names
from kivnun.models.attention import standard_attention, use_packed_attention
from kivnun.models.empty import empty_model
from kivnun.models.heads import Head, choose_head, load_headed, put_head
from kivnun.models.load import load_tokenizer
from kivnun.models.quantize import count_parameters
from kivnun.models.resolve import ResolvedModel
from kivnun.models.sentence_folder import write_head
from kivnun.models.types import Model
from kivnun.recipe.schema import Recipe
from kivnun.recipe.training import TrainingSection
from kivnun.training.device import compile_layers, pick_device
from kivnun.training.flops import flops_of_table
from kivnun.training.loop import make_plan
from kivnun.training.memory import recompute_layers
from kivnun.training.objectives import make_objective
from kivnun.training.optimizer import make_master_weights
from kivnun.training.parallel import Parallel
from kivnun.training.plan_checks import check_plan
from kivnun.training.stage import Job
from kivnun.training.usage import UsageMeter
from kivnun.training.validation import Measure, Validation


@dataclass(frozen=True)
class Trainee:
    """A model that is ready to be trained.

    Attributes:
        model: The model.
        job: What the training stage runs.
        method: How its weights are trained and written.
        head: Its head; None for the one that predicts tokens.
        base: The base model.
        dataset: The rows.
        make_model: Loads and prepares the model anew.
        description: Device, format, steps and sizes, for people.
    """

    model: Model
    job: Job
    method: Method
    head: Head | None
    base: ResolvedModel
    dataset: Dataset
    make_model: Callable[[], Model]
    description: Mapping[str, object]

    def snapshot(self) -> Callable[[Path], None]:
        """What writes the model as it is now; every process must ask, and the first one writes."""
        model = self.job.parallel.whole_model(self.model, self.job.weights, self.make_model)
        return lambda folder: self._write(model, folder)

    def export(self, folder: Path) -> None:
        """End the training of several processes; the first one writes what was trained."""
        write = self.snapshot()
        self.job.parallel.part()
        if self.job.parallel.leads:
            write(folder)

    def _write(self, model: Model, folder: Path) -> None:
        """Write a model with tokenizer and template."""
        tokenizer = load_tokenizer(self.base.folder)
        self.method.export(model, folder, base_model=BaseModelName(self.base.name, self.base.folder))
        tokenizer.save_pretrained(folder)
        self.dataset.template.save(folder)
        if self.head is not None:
            write_head(folder, self.head, tokenizer, hidden_size=int(model.config.hidden_size))


def require_trainable(recipe: Recipe, base: ResolvedModel) -> None:
    """Refuse a method that does not fit the base model, before rows are read: tried on the model without its weights.

    Raises:
        UserError: `target-modules`, `recipe-invalid` or `stage-unsupported`.
    """
    model = empty_model(base.folder)
    # How many classes there will be is not known yet, and changes nothing.
    head = choose_head(recipe.training.objective, labels=("0", "1"))
    model = model if head is None else put_head(model, head)
    make_method(recipe.method).prepare(model, generator=torch.Generator())


def assemble(
    recipe: Recipe, base: ResolvedModel, dataset: Dataset, processes: Parallel, *, dtype: torch.dtype
) -> Trainee:
    """Load the base model, prepare it, and put the training together.

    Args:
        recipe: What to do.
        base: The base model.
        dataset: The rows.
        processes: The processes that train together.
        dtype: Number format of the computation.

    Raises:
        UserError: `model-invalid`, `target-modules` or `stage-unsupported`.
    """
    settings, device = recipe.training, pick_device()
    head = _choose_head(recipe, base, dataset)
    method = make_method(recipe.method)

    def make_trainable() -> Model:
        model = load_headed(base.folder, head, dtype=dtype)
        method.prepare(model, generator=torch.Generator().manual_seed(settings.seed))
        return model

    model = make_trainable()
    parallel = processes.place(model, device, dtype=dtype)
    parallel.run(lambda: use_packed_attention(model))
    if settings.gradient_checkpointing:
        recompute_layers(model)
    rows, validation = dataset.table("train"), dataset.table("validation")
    objective = make_objective(settings.objective, token_accuracy=settings.token_accuracy)
    flops = flops_of_table(model, rows, read_only=getattr(objective, "read_only", ()))
    plan = make_plan(rows.lengths(), settings)
    notes = check_plan(plan, rows, validation, settings)
    answered = _choose_answered_rows(settings, dataset, notes)
    job = Job(
        model,
        make_master_weights(model, settings, learning_rate_scales(model), vector_names(model)),
        rows,
        Validation(validation, _make_measure(recipe, model, dataset, base, answered) if answered else None),
        settings,
        objective,
        describe_row=dataset.describe_row,
        parallel=parallel,
        meter=UsageMeter(device, dtype, flops, num_processes=parallel.world_size) if parallel.leads else None,
    )
    num_tokens = plan.num_steps * plan.step_tokens
    description = {
        "device": str(device),
        "dtype": str(dtype),
        "compiled": parallel.run(lambda: compile_layers(model, settings, num_tokens=num_tokens)),
        "num_steps": plan.num_steps,
        "trained_parameters": sum(parameter.numel() for parameter in job.weights.parameters.values()),
        "all_parameters": count_parameters(model),
        "flops_per_token": flops,
        "notes": notes,
    }
    return Trainee(model, job, method, head, base, dataset, make_trainable, description)


def _choose_head(recipe: Recipe, base: ResolvedModel, dataset: Dataset) -> Head | None:
    """The head of the model that is trained; None for the one that predicts tokens, which the base model has."""
    data, _ = fit_context(recipe.data, base, recipe.method)
    return choose_head(
        recipe.training.objective,
        labels=dataset.labels,
        seed=recipe.training.seed,
        pad_token_id=Encoder(load_tokenizer(base.folder)).pad_id,
        max_seq_len=data.max_seq_len,
    )


def _choose_answered_rows(settings: TrainingSection, dataset: Dataset, notes: list[str]) -> list[StoredRow]:
    """The validation rows that are answered while training, always the same ones, drawn by the recipe's seed.

    Args:
        settings: The recipe's `training` section.
        dataset: The rows.
        notes: Where it is said how many rows have no right answer to compare with.

    Raises:
        UserError: `preference-invalid` where none has.
    """
    if not settings.validation_metrics:
        return []
    rows = dataset.rows("validation")
    good = [row for row in rows if row.desirable is not False]
    if not good:
        raise UserError(
            "preference-invalid",
            f"training.validation_metrics: none of the {len(rows)} validation rows has a good answer to compare with",
            hint="leave validation_metrics out, or put rows with good answers into the validation split",
        )
    if len(good) < len(rows):
        notes.append(
            f"{len(rows) - len(good)} of {len(rows)} validation rows have a bad answer: they count for the loss, and "
            f"not for {', '.join(settings.validation_metrics)}"
        )
    return sample_rows(good, settings.validation_rows, seed=settings.seed)


def _make_measure(
    recipe: Recipe, model: Model, dataset: Dataset, base: ResolvedModel, rows: Sequence[StoredRow]
) -> Measure:
    """What a validation measures by generating the answers of some rows."""
    names = recipe.training.validation_metrics
    encoder = Encoder(load_tokenizer(base.folder))
    longest = max((len(encoder.encode_prompt(row.answer)) for row in rows), default=0) + 1
    room = recipe.evaluation.max_new_tokens if recipe.evaluation else longest

    def measure() -> dict[str, float]:
        model.eval()
        with standard_attention(model):
            engine = TorchEngine(model, pad_id=encoder.end_id)
            prompts = [row.prompt_ids for row in rows]
            answers = engine.generate(prompts, max_new_tokens=room, stop_ids=dataset.stop_ids)
        texts = [encoder.decode(answer.token_ids) for answer in answers]
        return score_while_training(names, texts, [row.answer for row in rows])

    return measure
