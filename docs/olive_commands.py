"""What the page on Olive says of its commands: each flag with what becomes of it, and every block of the seeds."""

from collections.abc import Sequence

from kivnun.cli.olive_verbs import ABSENT, OTHERS
from kivnun.olive.commands import FINETUNE_FLAGS, TRAINING_FLAGS
from kivnun.olive.flags import Flag
from kivnun.olive.ship_commands import SHIP_FLAGS

COMMANDS = """\
## finetune

`kivnun finetune -m MODEL -d DATA` takes the flags below and every training argument of the tables above. Each flag is
printed with what it became, the recipe is kept, and run; `OUT/adapter`, `OUT/model` and `OUT/run` are what is left.
Names are never shortened, a truth is `true` or `false`, and `-` may stand for `_`. Every row trains unless
`--eval_split`, or a flag that needs validation rows, keeps some apart; all rows are used unless `--max_samples` says
otherwise, where Olive takes 256 in silence.
"""
SHIP = """\
## auto-opt, optimize, quantize

`kivnun auto-opt -m MODEL -a ADAPTER`, `kivnun optimize -m MODEL` and `kivnun quantize -m MODEL` merge, export and
compare; the folder appears only when it is proved, with `parity.json`. `kivnun optimize RUN` makes the forms of a
finished run anew: candidates are measured unless `--precision` is given, and the limits pick one. A precision that is
not given is Olive's own (fp32, for GPUs fp16; int8 for `quantize`); gptq and awq need rows with `-d`.
"""
VERBS = """\
## Commands that are not here

| command | what to do instead |
|---|---|
"""
SEEDS = """\
## Every block of the seeds

The blocks of code of two tutorials on Olive, numbered as they stand there (000 on tuning with Olive's commands, 004
on Phi-3 with Olive's file): 20 of 32 run here, and 12 are refused. `tests/olive/test_seed_blocks.py` runs each.

| block | | why |
|---|---|---|
"""
BLOCKS = {
    "000-01": ("runs", "installs the extra `auto-opt`"),
    "000-02": ("runs", "installs the extras `cpu`, `gpu`, `directml`, `azureml`"),
    "000-03": ("runs", "`kivnun --help`, `import kivnun`"),
    "000-04": ("runs", "folders, and the hub's own sign-in, which is `hf auth login` since huggingface_hub 1.0"),
    "000-05": ("runs", "`finetune`"),
    "000-06": ("runs", "`auto-opt`"),
    "000-07": ("runs", "rows for 000-08"),
    "000-08": ("runs", "a file with PyTorchModel and LoRA"),
    "000-09": ("olive-invalid", "`--setup`: there is nothing to set up"),
    "000-10": ("runs", "`finetune --method qlora` with slices of one file"),
    "000-11": (
        "olive-invalid",
        "`finetune` without model and data; with them (and, for scores of labels, "
        "`evaluation: {task: classification, label: COLUMN}` in the recipe) all of it runs",
    ),
    "000-12": ("runs", "`kivnun search RECIPE --space FILE`"),
    "000-13": ("runs", "the loss is that of `objective: {kind: contrastive, loss: margin}`"),
    "000-14": (
        "runs",
        "loads the merged folder, after `pip install datasets`: the script imports it, and uses it no more than Kivnun",
    ),
    "000-15": ("olive-invalid", "`finetune` without model and data; with them its flags run"),
    "000-16": ("runs", "in the file of 000-08"),
    "000-17": ("olive-invalid", "`finetune` without model and data; with them its flags run"),
    "000-18": ("olive-invalid", "`dataloader_num_workers` has no effect"),
    "004-01": ("runs", "installs Kivnun"),
    "004-02": ("runs", "installs the extra `cpu`"),
    "004-03": ("runs", "installs the extra `gpu`"),
    "004-04": (
        "runs",
        "installs the extra `azureml`; pip 26 refuses extras behind `#egg=` and takes "
        '`pip install "kivnun[azureml] @ git+https://github.com/OWNER/REPO"`',
    ),
    "004-05": ("runs", "with 004-09, 004-11 and 004-12 in one file"),
    "004-06": ("azure-credentials", "with 004-07 as mended, the job is written, and sent once somebody is signed in"),
    "004-07": (
        "olive-invalid",
        "neither host nor target names `azure_arc`, and `hf_token` asks for a secret in the job",
    ),
    "004-08": ("azure-invalid", "the environment does not install Kivnun"),
    "004-09": ("runs", "with 004-05"),
    "004-10": ("azure-credentials", "as 004-06"),
    "004-11": ("olive-invalid", "`double_quant` has no effect on LoRA; without it, it runs"),
    "004-12": ("runs", "with 004-05"),
    "004-13": ("azure-credentials", "as 004-06"),
    "004-14": ("olive-invalid", "the whole file, with 004-07 and 004-11 in it"),
}
"""What becomes of each block: it runs, or the code of the error that refuses it."""


def olive_commands() -> str:
    """The sections on commands and on the seeds."""
    own = [flag for flag in FINETUNE_FLAGS if flag not in TRAINING_FLAGS]
    verbs = "".join(f"| `{verb}` | {instead} |\n" for verb, (_, instead) in ABSENT.items())
    verbs += "".join(f"| `{verb}` | {instead} |\n" for verb, instead in OTHERS.items())
    rows = (f"| {block} | {_say(outcome)} | {why} |\n" for block, (outcome, why) in BLOCKS.items())
    parts = [f"{COMMANDS}\n{_flags(own)}", f"{SHIP}\n{_flags(SHIP_FLAGS)}", VERBS + verbs, SEEDS + "".join(rows)]
    return "\n".join(parts)


def _flags(flags: Sequence[Flag]) -> str:
    lines = (f"| `{flag.shown.replace('|', chr(92) + '|')}` | {flag.meaning} |\n" for flag in flags)
    return "| flag | meaning |\n|---|---|\n" + "".join(lines)


def _say(outcome: str) -> str:
    return outcome if outcome == "runs" else f"**error** (`{outcome}`)"
