"""Ask an exported model without Kivnun: `python examples/ask_int4_model.py runs/tone/optimized/onnx-int4 "the text"`.

The folder is all that is needed, and onnxruntime-genai the only package; the folder can be copied to any machine.
"""

import json
import string
import sys
from pathlib import Path

import onnxruntime_genai as og


def main() -> None:
    """Print the model's answer to one prompt, word by word."""
    folder, *values = sys.argv[1:]
    template = json.loads(Path(folder, "template.json").read_text("utf-8"))
    prompt = fill_template(template["prompt"], values)
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    parameters = og.GeneratorParams(model)
    prompt_ids = tokenizer.encode(prompt)
    parameters.set_search_options(max_length=len(prompt_ids) + 32, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt_ids)
    words = tokenizer.create_stream()
    while not generator.is_done():
        generator.generate_next_token()
        token = generator.get_next_tokens()[0]
        if token not in tokenizer.eos_token_ids:
            print(words.decode(token), end="", flush=True)
    print()


def fill_template(prompt: str, values: list[str]) -> str:
    """The prompt with its fields replaced by the values, in order."""
    names = dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(prompt) if name)
    return prompt.format(**dict(zip(names, values, strict=True)))


if __name__ == "__main__":
    main()
