"""Write the card of every folder of a run that somebody may take away: what was trained, and each form of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kivnun.data.folder import Dataset, read_dataset
from kivnun.evaluation.results import LINEAR, Estimate, PairedComparison
from kivnun.generation.agreement import ParityRow
from kivnun.model_card.facts import CardFacts, Cost, gather_facts
from kivnun.model_card.front_matter import FormKind, write_front_matter
from kivnun.recipe.schema import Recipe
from kivnun.runs import write_atomic
from kivnun.runs.manifest import CARD_NAME

TEMPLATE = "card.md.jinja"
PROMPT_MARK = "<!-- the prompt template -->"
MODEL, OPTIMIZED = "model", "optimized"
_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_WHAT: Mapping[FormKind, str] = {
    "adapter": "A small set of weights that is put on a base model.",
    "model": "A language model as it was trained.",
    "merged": "A language model in plain float32 weights, what was trained merged into them.",
    "onnx": "A language model in ONNX, for onnxruntime-genai.",
    "gguf": "A language model in one GGUF file, for llama.cpp and Ollama.",
}
_USE: Mapping[FormKind, str] = {
    "adapter": """~~~python
from peft import AutoPeftModelForCausalLM  # an adapter of PEFT's formats

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")
~~~""",
    "model": """~~~python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer(PROMPT, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, do_sample=False)[0]))
~~~""",
    "onnx": """~~~python
import onnxruntime_genai as og

model = og.Model("FOLDER")
tokenizer = og.Tokenizer(model)
parameters = og.GeneratorParams(model)
parameters.set_search_options(max_length=512, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(tokenizer.encode(PROMPT))
while not generator.is_done():
    generator.generate_next_token()
print(tokenizer.decode(generator.get_sequence(0)))
~~~""",
    "gguf": """~~~bash
llama-cli -m FOLDER/FILE --temp 0 --repeat-penalty 1 -p PROMPT
cd FOLDER && ollama create my-model -f Modelfile && ollama run my-model
~~~""",
}
_HEAD_USE = "It has a head of its own instead of words: `kivnun generate RUN` and `kivnun embed RUN` use it."


def card_folders(run_dir: Path) -> dict[Path, FormKind]:
    """The folders of a run that have a card, with what they hold."""
    found: dict[Path, FormKind] = {}
    model = run_dir / MODEL
    if model.is_dir():
        found[model] = "adapter" if (model / "adapter_config.json").is_file() else "model"
    for folder in sorted((run_dir / OPTIMIZED).glob("*")):
        if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
            found[folder] = "merged"
        elif any(folder.glob("*.onnx")):
            found[folder] = "onnx"
        elif any(folder.glob("*.gguf")):
            found[folder] = "gguf"
    return found


def write_cards(run_dir: Path, recipe: Recipe) -> list[Path]:
    """Write `README.md` into every folder of a finished run that may be taken away.

    The manifests of the stages do not count cards, so that a finished stage stays what it is.

    Args:
        run_dir: The run folder.
        recipe: Its recipe.

    Raises:
        UserError: `run-missing`, `artifact-damaged` or `disk-full`.
    """
    facts = gather_facts(run_dir, recipe)
    dataset = read_dataset(run_dir / "dataset")
    written: list[Path] = []
    for folder, kind in card_folders(run_dir).items():
        path = folder / CARD_NAME
        card = render_card(facts, folder, kind, dataset)
        # The same command again leaves a finished run as it is, to the second.
        if not path.is_file() or path.read_text("utf-8") != card:
            write_atomic(path, card)
        written.append(path)
    return written


def render_card(facts: CardFacts, folder: Path, kind: FormKind, dataset: Dataset) -> str:
    """The card of one folder.

    Args:
        facts: What is known of the run.
        folder: The folder.
        kind: What it holds.
        dataset: The rows; none of them goes into the card.
    """
    row = next((each for each in facts.results.parity if _is_row_of(each, folder, kind)), None)
    evaluation = facts.results.evaluation
    scores = evaluation.scores if evaluation else ()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML; table cells are escaped by their own filter
    )
    environment.filters |= {
        "cell": _cell,
        "duration": _say_duration,
        "estimate": _say_estimate,
        "file_name": lambda path: Path(path).name,
        "number": lambda value, form: "not measured" if value is None else form.format(value),
        "size": _say_size,
    }
    text = environment.get_template(TEMPLATE).render(
        facts=facts,
        front_matter=write_front_matter(facts, kind, row).strip(),
        what=_WHAT[kind],
        use=_say_use(facts, folder, kind),
        prompt=PROMPT_MARK if facts.template.kind == "text" else "",
        energy=_say_energy(facts.cost),
        scores=scores,
        metrics=list(dict.fromkeys(name for each in scores for name in each.metrics)),
        num_rows=scores[0].num_rows if scores else 0,
        verdict=_say_verdict(evaluation.comparison) if evaluation else "",
        parity=facts.results.parity,
        row=row,
        limits=_list_limits(facts, row, dataset),
    )
    # Blocks that say nothing leave their empty lines; those of the prompt must stay.
    lines = text.split("\n")
    kept = [line for number, line in enumerate(lines) if line or number == 0 or lines[number - 1]]
    return "\n".join(kept).replace(PROMPT_MARK, _show_prompt(facts.template.prompt))


def _is_row_of(row: ParityRow, folder: Path, kind: FormKind) -> bool:
    """Whether a line of the parity table is that of a folder; older tables name the form alone."""
    if row.folder is not None:
        return row.folder == folder.name
    return {"merged": row.name == "merged", "onnx": folder.name == f"onnx-{row.precision}"}.get(kind, False)


def _say_use(facts: CardFacts, folder: Path, kind: FormKind) -> str:
    if kind in ("adapter", "model") and (folder / "head.json").is_file():
        return _HEAD_USE
    file = next((path.name for path in folder.glob("*.gguf")), "")
    text = _USE["model" if kind == "merged" else kind].replace("FILE", file)
    chat = "a conversation as `tokenizer.apply_chat_template(messages, add_generation_prompt=True)` writes it"
    what = {"chat": chat, "text": "a text as below"}.get(facts.template.kind, "the beginning of a text")
    return f"{text}\n\n`FOLDER` is this folder, or what the hub gave for its id; `PROMPT` is {what}."


def _show_prompt(prompt: str) -> str:
    """A block of text whose fence no line of it can close."""
    fence = "~~~"
    while fence in prompt:
        fence += "~"
    return f"{fence}text\n{prompt}\n{fence}"


def _say_energy(cost: Cost | None) -> str:
    if cost is None or cost.energy_joules is None:
        return "not measured, since no counter of this machine could be read"
    words = f"{cost.energy_joules / 3600:,.2f} Wh" if cost.energy_joules >= 360 else f"{cost.energy_joules:,.0f} J"
    covered = f"in the {_say_duration(cost.energy_seconds)} that were sampled"
    return f"{words} {covered}, by the counters of the whole processors and GPU, with all else that ran on them"


def _say_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _say_estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _say_size(size_bytes: int) -> str:
    for unit, scale in _UNITS:
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} B"


def _say_verdict(comparison: PairedComparison) -> str:
    words = "not told apart" if comparison.verdict == "unclear" else comparison.verdict
    difference = comparison.difference
    interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    points = f"{100 * difference.value:+.1f} points{' right' if comparison.means is None else ''}, {interval}"
    test = "McNemar's exact p" if comparison.test == "mcnemar" else "p of flipped signs"
    return f"{words} ({points}; {test} = {comparison.p_value:.2g})"


def _list_limits(facts: CardFacts, row: ParityRow | None, dataset: Dataset) -> Sequence[str]:
    lines = [
        "It was trained and measured on rows of the same source; on other texts it may be worse, and was not measured.",
        "It was not tested for harmful, false or unfair answers.",
        f"Rows of more than {facts.recipe.data.max_seq_len:,} tokens were not seen in training.",
    ]
    evaluation = facts.results.evaluation
    yardstick = evaluation.yardstick_comparison if evaluation else None
    if yardstick is not None and yardstick.verdict != "better":
        lines.append(f"It is not shown to be better than a simple yardstick ({LINEAR}): {_say_verdict(yardstick)}.")
    if row is not None and row.identical < row.num_prompts:
        lines.append(f"{row.num_prompts - row.identical} of {row.num_prompts} answers differ from the tuned model's.")
    if row is not None and row.verdict == "not run here":
        lines.append("This form did not run on the machine that built it: what it answers was not measured.")
    if dataset.labels:
        lines.append(f"It answers with one of {len(dataset.labels)} classes and with nothing else.")
    return lines


def _cell(text: str) -> str:
    """Text that cannot end a table cell."""
    return text.replace("|", "\\|").replace("\n", " ")
