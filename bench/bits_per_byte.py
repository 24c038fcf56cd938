r"""Bits per byte of base models on held-out text, so that models with different tokenizers can be compared.

    python bench/bits_per_byte.py --run runs/base --model bundled --model ../shared/data/stories260k/hf \
        --text ../shared/data/tinystories_sample/tinystories.txt --text ../shared/data/wikitext2_small/test.txt

Texts are the held-out documents of a run (its `test` split, by source) and any text files. Each document is scored
whole, in windows of the model's context that begin with the last token of the window before; a document's first token
follows the model's begin or end-of-text token. Bits are summed over tokens and divided once by the UTF-8 bytes of the
text, so the tokenizer cancels out.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import torch

from kivnun.data.reading import read_conversations
from kivnun.data.sources import read_text
from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.inputs import located_recipe
from kivnun.models.attention import use_packed_attention
from kivnun.models.load import load_model, load_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.recipe.load import load_recipe
from kivnun.runs import find_run
from kivnun.training.score import document_losses

MAX_TEXT_BYTES = 400_000


def held_out_texts(run: str, recipe: Path) -> dict[str, list[str]]:
    """The test documents of a run's recipe, by source file."""
    loaded = load_recipe(find_run(run) / "recipe.yaml") if run else load_recipe(recipe)
    located = located_recipe(loaded)
    _, splits = read_conversations(located.data, located.training.objective)
    texts: dict[str, list[str]] = defaultdict(list)
    for conversation in splits["test"]:
        texts[conversation.fields["source"]].append(conversation.answer)
    return texts


def score(model_name: str, texts: dict[str, list[str]]) -> dict[str, dict[str, float]]:
    """Bits per byte and tokens per byte of every group of texts."""
    folder = resolve_model(model_name).folder
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype=torch.float32)
    context = int(getattr(model.config, "max_position_embeddings", 1024))
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    use_packed_attention(model)
    found = {}
    for name, documents in texts.items():
        rows = []
        for document in documents:
            ids = [begin, *tokenizer.encode(document, add_special_tokens=False)]
            for start in range(0, len(ids) - 1, context - 1):
                window = ids[start : start + context]
                rows.append(TokenizedRow(window, [False] + [True] * (len(window) - 1)))
        sums, counts = document_losses(model, make_table(rows), batch_tokens=8192)
        num_bytes = sum(len(document.encode()) for document in documents)
        found[name] = {
            "bits": sum(sums) / math.log(2),
            "bytes": num_bytes,
            "bits_per_byte": sum(sums) / math.log(2) / num_bytes,
            "tokens_per_character": sum(counts) / sum(map(len, documents)),
        }
        sys.stderr.write(f"{model_name}  {name}: {found[name]['bits_per_byte']:.3f}\n")
    return found


def total(found: dict[str, dict[str, float]], names: list[str]) -> float:
    """Bits per byte over several groups: bits summed, bytes summed, divided once."""
    return sum(found[name]["bits"] for name in names) / max(sum(found[name]["bytes"] for name in names), 1)


def main() -> None:
    """Score every model on every text and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="a base model: bundled, a folder, a hub id")
    parser.add_argument("--run", default="", help="a run whose held-out test documents are scored")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/base.yaml"), help="used where --run is not given")
    parser.add_argument("--text", action="append", default=[], type=Path, help="a text file, scored as one document")
    parser.add_argument("--json", action="store_true", help="print JSON as the last line")
    arguments = parser.parse_args()
    texts = held_out_texts(arguments.run, arguments.recipe)
    held_out = list(texts)
    for path in arguments.text:
        texts[path.stem if path.stem != "test" else path.parent.name] = [read_text(path)[:MAX_TEXT_BYTES]]
    results = {name: score(name, texts) for name in arguments.model}
    hebrew = [name for name in held_out if name.startswith("hebrew")]
    english = [name for name in held_out if name not in hebrew]
    print(f"{'text':24} {'bytes':>9} " + " ".join(f"{Path(name).parent.name or name:>14}" for name in results))
    for name in texts:
        cells = " ".join(f"{found[name]['bits_per_byte']:14.3f}" for found in results.values())
        print(f"{name:24} {next(iter(results.values()))[name]['bytes']:9} {cells}")
    for title, names in (("held-out English", english), ("held-out Hebrew", hebrew)):
        print(f"{title:34} " + " ".join(f"{total(found, names):14.3f}" for found in results.values()))
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
