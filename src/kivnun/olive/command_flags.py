"""The flags that several of Olive's commands share, and what those mean that no command needs here."""

from collections.abc import Mapping

from kivnun.olive.flags import Flag, Given, unescape
from kivnun.olive.translation import Draft, Meaning

MODEL_FLAGS = (
    Flag("model_name_or_path", "text", "The model: a folder, a Hugging Face id, or `bundled`.", "m"),
    Flag("task", "text", "Only text-generation.", "t"),
    Flag("trust_remote_code", "truth", "Accepted for models that bring no code; code of a model is never run."),
)
ADAPTER_FLAG = Flag("adapter_path", "text", "Folder of the adapter that was trained on the model.", "a")
RUN_FLAGS = (
    Flag("output_path", "text", "Folder for what is made.", "o"),
    Flag("log_level", "whole", "0 or 1 shows everything (as if not given), 2 warnings, 3 or 4 errors alone."),
    Flag("save_config_file", "truth", "Kivnun always keeps what was asked beside the result."),
    Flag("dry_run", "truth", "Say what would be done, and do nothing."),
    Flag("disable_telemetry", "truth", "There is no telemetry."),
    Flag("json", "truth", "Print JSON on standard output."),
)
DATA_FLAGS = (
    Flag("data_name", "text", "The rows: a file, a folder, a Hugging Face id, or json with --data_files.", "d"),
    Flag("data_files", "texts", "Files with rows."),
    Flag("text_template", "text", "Text of a row with fields in braces; the last one is the answer. \\n ends a line."),
    Flag("text_field", "text", "Only text: the column whose whole text is learnt."),
    Flag("use_chat_template", "truth", "The column `messages` holds conversations for the model's chat template."),
    Flag("max_seq_len", "whole", "Longest row in tokens; 1024 if not given."),
    Flag("max_samples", "whole", "Rows that are used, from the first; all if not given. Olive counts blocks of rows."),
    Flag("add_special_tokens", "truth", "Only false: the template says every token, and the end is learnt."),
    Flag("batch_size", "whole", "Rows that are computed at once."),
    Flag("input_cols", "texts", "Refused: the template names the columns."),
)
REFUSED_FLAGS = (
    Flag("model_script", "text", "Refused: code of your own is not run."),
    Flag("script_dir", "text", "Refused: code of your own is not run."),
    Flag("test", "truth", "Refused: use --dry_run."),
    Flag("account_name", "text", "Refused: there is no shared cache."),
    Flag("container_name", "text", "Refused: there is no shared cache."),
)

REFUSALS: Mapping[str, str] = {
    "model_script": "runs a script of yours to load the model, which Kivnun does not; save the model as a folder",
    "script_dir": "names scripts, which Kivnun does not run; leave it out",
    "test": "makes a random model of two layers; use --dry_run, or --max_steps 2",
    "account_name": "names a cache in Azure, which Kivnun does not have; leave it out",
    "container_name": "names a cache in Azure, which Kivnun does not have; leave it out",
    "input_cols": "names columns beside the template; write them into --text_template in braces",
    "use_qdq_encoding": "writes quantised weights for runtimes other than onnxruntime-genai; leave it out",
    "use_qdq_format": "writes quantised weights for runtimes other than onnxruntime-genai; leave it out",
    "act_precision": "quantises activations, which Kivnun keeps in floating point; leave it out",
}
"""Flags that are known and have no meaning here, with what to write instead."""

LOADERS = frozenset({"json", "csv", "parquet", "text", "arrow", "pandas"})
"""What Hugging Face calls the readers of local files, which stand in the place of a data set's name."""

TEXT_GENERATION = frozenset({"text-generation", "text-generation-with-past"})


def add_missing(draft: Draft, given: Given, needed: Mapping[str, str]) -> None:
    """Note each needed flag that is not given, with what to write.

    Args:
        draft: The translation.
        given: The flags.
        needed: What to write, by the name of the flag.
    """
    for name, example in needed.items():
        if name not in given.values:
            draft.refuse(f"--{name}", f"is missing; write {example}")


def add_common(draft: Draft, given: Given) -> None:
    """Take the flags that mean the same in every command."""
    for name, value in given.values.items():
        meaning = _common_meaning(name, value)
        if meaning is not None:
            draft.add(f"--{name}", value, meaning)


def _common_meaning(name: str, value: object) -> Meaning | None:
    if name in REFUSALS:
        # A truth that is said to be false asks for nothing.
        return Meaning("same") if value is False else Meaning("refused", note=REFUSALS[name])
    if name == "task":
        known = value in TEXT_GENERATION
        note = "Kivnun ships models that generate text; leave it out" if not known else ""
        return Meaning("same" if known else "refused", note=note)
    if name == "log_level":
        is_known = isinstance(value, int) and 0 <= value <= 4
        return Meaning("used" if is_known else "refused", note=_say_level(value) if is_known else "should be 0 to 4")
    notes = {
        "trust_remote_code": "the model's own code is never run; one that needs it is refused",
        "save_config_file": "what was asked is always kept beside the result",
        "disable_telemetry": "there is none",
        "dry_run": "nothing is made",
    }
    if name in notes:
        return Meaning("used" if name == "dry_run" else "same", note=notes[name])
    return None


def _say_level(level: object) -> str:
    words = {0: "everything is shown", 1: "everything is shown", 2: "warnings are shown"}
    return words.get(level if isinstance(level, int) else 0, "only errors are shown")


def add_data(draft: Draft, given: Given, *, subset: str | None) -> None:
    """Take where rows come from and how they become text; the section `data` of the recipe.

    Args:
        draft: The translation.
        given: The flags.
        subset: Name of the flag that names a configuration of a data set on the hub.
    """
    _add_files(draft, given, subset)
    ways = [name for name in ("text_template", "text_field", "use_chat_template") if given.values.get(name)]
    if len(ways) > 1:
        draft.refuse(f"--{ways[1]}", f"cannot stand beside --{ways[0]}; keep one way to turn a row into text")
        return
    for way in ways:
        draft.add(f"--{way}", given.values[way], _text_meaning(way, str(given.values[way])))
    if "add_special_tokens" in given.values:
        draft.add("--add_special_tokens", given.values["add_special_tokens"], _special_meaning(given))
    if "max_seq_len" in given.values:
        draft.add("--max_seq_len", given.values["max_seq_len"], _used("data.max_seq_len", given.values["max_seq_len"]))


def _add_files(draft: Draft, given: Given, subset: str | None) -> None:
    name, files = given.text("data_name"), given.values.get("data_files")
    config = given.text(subset) if subset is not None else None
    if isinstance(files, tuple):
        if name is not None and name not in LOADERS:
            draft.refuse("--data_files", f"names files beside the data set {name} of --data_name; keep one of them")
            return
        if name is not None:
            draft.add("--data_name", name, Meaning("same", note="the format is found in the files themselves"))
        draft.add("--data_files", ",".join(files), _used("data.train", list(files)))
    elif name in LOADERS:
        draft.refuse("--data_name", f"{name} is a reader of files and names no rows; add --data_files FILE")
    elif name is not None:
        whole = f"{name}:{config}" if config else name
        draft.add("--data_name", name, _used("data.train", whole))
    if subset is not None and config is not None:
        if name is None or isinstance(files, tuple):
            draft.refuse(f"--{subset}", "chooses a part of a data set on the hub, but files are given; leave it out")
        else:
            draft.add(f"--{subset}", config, Meaning("renamed", note=f"the part of {name} behind the colon"))


def _text_meaning(way: str, value: str) -> Meaning:
    if way == "text_template":
        text = unescape(value)
        return Meaning("used", {"data.text_template": text}, "the last field is the answer that is learnt")
    if way == "text_field":
        if value != "text":
            reason = "running text is read from the column `text`; rename it, or write --text_template with two fields"
            return Meaning("refused", note=reason)
        return Meaning("renamed", {"training.objective": "text"}, "every token of the column `text` is learnt")
    return Meaning("renamed", {"data.messages": "messages"}, "conversations, written by the model's chat template")


def _special_meaning(given: Given) -> Meaning:
    if given.is_true("add_special_tokens"):
        reason = "Kivnun writes the tokens of the template and the end of the answer, no others; leave it out"
        return Meaning("refused", note=reason)
    return Meaning("same", note="the template says every token; the end of the answer is learnt")


def _used(path: str, value: object, note: str = "") -> Meaning:
    return Meaning("used" if path.endswith(".max_seq_len") else "renamed", {path: value}, note)
