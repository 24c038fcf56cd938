"""Verbs of Olive, AutoTrain and TRL that Kivnun does not have, each with Kivnun's words for what it does."""

from collections.abc import Callable, Mapping

import typer

from kivnun.cli.olive_words import FREE_WORDS

ABSENT: Mapping[str, tuple[str, str]] = {
    "capture-onnx-graph": (
        "exports a model without comparing it",
        "`kivnun auto-opt -m MODEL -a ADAPTER --precision int4` exports one and proves that it answers the same",
    ),
    "run-pass": (
        "runs one pass of Olive's",
        "`kivnun auto-opt` merges and exports, `kivnun quantize` rounds, `kivnun run FILE` runs the passes of a file",
    ),
    "convert-adapters": (
        "writes an adapter whose names no model of Olive's has",
        "`kivnun generate-adapter` exports a base model with its adapters, names included",
    ),
    "extract-adapters": (
        "takes adapters out of an exported model",
        "`kivnun generate-adapter` exports a base model and its adapters apart from each other",
    ),
    "tune-session-params": (
        "searches onnxruntime's settings",
        "`kivnun optimize RUN` measures forms and threads on this machine",
    ),
    "benchmark": ("measures a model with lm-eval", "`kivnun run` evaluates on your test rows; `kivnun verify` times"),
    "generate-cost-model": (
        "counts for splitting a model into parts",
        "`kivnun estimate RECIPE` says what it costs",
    ),
    "generate-model-package": ("packs models for a store", "`kivnun push` sends a run's model to a hub"),
    "diffusion-lora": ("tunes models of images", "Kivnun tunes language models; stay with Olive for images"),
    "configure-qualcomm-sdk": ("belongs to NPUs of Qualcomm", "models are built for CPU, CUDA and DirectML"),
    "shared-cache": ("empties a cache in Azure", "there is none: a run folder holds all of a run"),
    "init": ("asks for the parts of a command", "`kivnun recipe init` writes a recipe to start from"),
}
"""Verbs of Olive's that Kivnun has no use for: what they do there, and Kivnun's words for it."""


OTHERS: Mapping[str, str] = {
    "autotrain": "`kivnun run RECIPE`; the error says what a recipe has for each flag of AutoTrain",
    "trl": "`kivnun run RECIPE`; the error says what a recipe has for each argument of TRL",
    "sft": "as `trl sft`: `training.objective: supervised`, which a recipe has if it says nothing",
    "dpo": "as `trl dpo`: `training.objective: dpo`",
    "kto": "as `trl kto`: `training.objective: kto`",
}
"""Verbs of other programs, each with Kivnun's words for it."""


def register_absent(app: typer.Typer) -> None:
    """Let every verb of Olive, AutoTrain and TRL that is not here say what is."""
    for verb in ABSENT:
        app.command(verb, hidden=True, add_help_option=False, context_settings=FREE_WORDS)(_absent(verb))
    for verb in OTHERS:
        app.command(verb, hidden=True, add_help_option=False, context_settings=FREE_WORDS)(_other(verb))


def _absent(verb: str) -> Callable[[typer.Context], None]:
    def refuse(_context: typer.Context) -> None:
        from kivnun.errors import UserError

        does, instead = ABSENT[verb]
        problem = f"`{verb}` is a command of Olive's that Kivnun does not have: it {does}"
        raise UserError("olive-invalid", problem, hint=instead)

    return refuse


def _other(verb: str) -> Callable[[typer.Context], None]:
    def refuse(context: typer.Context) -> None:
        from kivnun.olive.other_tools import command_error

        raise command_error(verb, context.args)

    return refuse
