"""Streams: many clients at once, the server beside the bare engine, repeated prompts, other engines in the same run.

The model is the int4 form of a random Llama of the 135M shape (`generation.prepare`). Its tokenizer knows every token
of the vocabulary, so that each token of an answer is a piece of text and none is held back. The server, its clients,
and each engine beside it are processes of their own; while one is measured, the others wait.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import generation
import numpy as np

from kivnun.data.template import PromptTemplate
from kivnun.models.load import load_tokenizer
from kivnun.optimization.gguf import export_gguf, gguf_name

BENCH = Path(__file__).resolve().parent
KEPT = BENCH / ".server"
OPENVINO = BENCH / ".openvino"
OPENVINO_PACKAGE = "openvino-genai==2026.4.1.0"
NUM_CLIENTS, ANSWERS_EACH = 64, 2
PROMPT_WORDS, SHARED_WORDS = 118, 104
BATCH = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--rounds", type=int, default=None, help="interleaved rounds (default: 9; 2 with --quick)")
    parser.add_argument("--new-tokens", type=int, default=None, help="of an answer (default: 128; 32 with --quick)")
    parser.add_argument("--block-size", type=int, default=32, help="weights that share a scale (default: 32)")
    parser.add_argument("--beside", action="store_true", help="OpenVINO GenAI too; its packages are fetched once")


class Talker:
    """A process that reads tasks and writes reports, a line of JSON each."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        # PyPI's OpenVINO writes progress to standard output too; reports are the lines that are JSON.
        with log.open("a") as said:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )

    def ask(self, task: dict[str, Any] | None) -> dict[str, Any]:
        """Give a task and wait for its report; None only waits."""
        given, said = self.process.stdin, self.process.stdout
        if task is not None and given is not None:
            given.write(json.dumps(task) + "\n")
            given.flush()
        for line in said or ():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Machine:
    """Everything that a measurement asks.

    Attributes:
        url: Of the server's chat completions.
        clients: The clients' process.
        sides: The bare engines by name.
        words: Words of one token each.
        tokenizer: The model's.
        draws: Of prompts.
        new_tokens: Of an answer.
    """

    url: str
    clients: Talker
    sides: dict[str, Talker]
    words: Sequence[str]
    tokenizer: Any
    draws: np.random.Generator
    new_tokens: int

    def prompt(self, shared: str = "") -> list[dict[str, str]]:
        """Messages of about 128 tokens that nobody asked before; the first words may be shared."""
        own = " ".join(["Words", *self.draws.choice(self.words, PROMPT_WORDS - len(shared.split()))])
        return [*([{"role": "system", "content": shared}] if shared else []), {"role": "user", "content": own}]

    def ids(self, messages: list[dict[str, str]]) -> list[int]:
        """The same as the tokens that the server makes of them."""
        encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def serve(self, prompts: Sequence[list[dict[str, str]]], at_once: int) -> dict[str, Any]:
        """Ask the server; every answer must come whole."""
        asked = {"model": "bench", "max_completion_tokens": self.new_tokens, "temperature": 0}
        bodies = [{**asked, "messages": messages} for messages in prompts]
        report = self.clients.ask({"url": self.url, "headers": {}, "bodies": bodies, "at_once": at_once})
        report["errors"] = [answer["error"] for answer in report["answers"] if "error" in answer]
        report["tokens"] = sum(answer.get("tokens", 0) for answer in report["answers"])
        return report

    def bare(self, side: str, prompts: Sequence[list[dict[str, str]]]) -> dict[str, Any]:
        """Ask a bare engine."""
        return self.sides[side].ask({"prompts": [self.ids(each) for each in prompts], "new_tokens": self.new_tokens})


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all of it."""
    shape = "small" if options.quick else "135M"
    rounds = options.rounds or (2 if options.quick else 9)
    folder = prepare_served(shape, options.block_size)
    with ExitStack() as stack:
        machine = stack.enter_context(start_machine(folder, options))
        results: dict[str, Any] = {"shape": shape, "block_size": options.block_size, "rounds": rounds}
        results["new_tokens"] = machine.new_tokens
        warm_up(machine)
        results["single_stream"] = measure_overhead(machine, rounds)
        results["repeated_prompt"] = measure_repeated(machine, rounds)
        results["clients"] = measure_clients(machine)
        results["beside"] = measure_beside(machine, rounds)
    results["passed"] = judge(results)
    tell(results)
    return results


def prepare_served(shape: str, block_size: int) -> Path:
    """The model's folders with a tokenizer that has a text for every token; made once."""
    int4 = generation.prepare(shape, block_size)
    folder = KEPT / (shape if block_size == 32 else f"{shape}-{block_size}")
    if not (folder / "whole").is_file():
        for form, made in (("model", int4.with_name("model")), ("int4", int4)):
            shutil.copytree(made, folder / form, dirs_exist_ok=True)
            path = folder / form / "tokenizer.json"
            tokenizer = json.loads(path.read_bytes())
            vocabulary = tokenizer["model"]["vocab"]
            first = 1 + max(chain(vocabulary.values(), (each["id"] for each in tokenizer["added_tokens"])))
            vocabulary.update({f"Ġw{token}": token for token in range(first, generation.VOCAB_SIZE)})
            path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
        (folder / "whole").touch()
    return folder


@contextmanager
def start_machine(folder: Path, options: argparse.Namespace) -> Iterator[Machine]:
    """Every process, until the end."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kivnun-bench-")))
        kivnun = [sys.executable, "-m", "kivnun", "serve", "--port", "0", "--json", "--no-auth", "--workers", "0"]
        paths = ["--data-dir", str(work / "data"), "--model", f"bench={folder / 'int4'}", "--base-model", "bench"]

        def start(command: list[str]) -> Talker:
            talker = Talker(command, work / "log.txt")
            stack.callback(talker.stop)
            return talker

        side_file = str(BENCH / "generation_sides.py")
        graph = str(folder / "int4")
        sides = {name: start([sys.executable, side_file, name, graph]) for name in ("rows", "genai")}
        if options.beside:
            sides["openvino"] = start([openvino_python(), side_file, "openvino", str(openvino_file(folder))])
        for side in sides.values():
            side.ask(None)
        try:
            url = start([*kivnun, *paths]).ask(None)["url"]
        except RuntimeError as error:
            raise RuntimeError((work / "log.txt").read_text()[-2000:]) from error
        tokenizer = load_tokenizer(folder / "int4")
        words = [piece[1:] for piece in tokenizer.get_vocab() if piece[0] == "Ġ" and piece[1:].isalpha()]
        words = [word for word in words if len(tokenizer.encode(f" {word}", add_special_tokens=False)) == 1]
        new_tokens = options.new_tokens or (32 if options.quick else 128)
        draws = np.random.default_rng(options.seed)
        clients = start([sys.executable, str(BENCH / "stream_clients.py")])
        yield Machine(f"{url}/chat/completions", clients, sides, sorted(words), tokenizer, draws, new_tokens)


def openvino_python() -> str:
    """Python of an environment with OpenVINO GenAI, made once."""
    python = OPENVINO / "bin" / "python"
    if not list(OPENVINO.glob("lib/*/site-packages/openvino_genai")):
        venv.create(OPENVINO, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", OPENVINO_PACKAGE], check=True)
    return str(python)


def openvino_file(folder: Path) -> Path:
    """The same weights as GGUF Q4_0, the 4-bit form that OpenVINO GenAI reads without an exporter of its own."""
    path = folder / "gguf" / gguf_name("q4_0")
    if not path.is_file():
        export_gguf(
            folder / "model", folder / "gguf", "q4_0", template=PromptTemplate("chat"), log=lambda _event, _fields: None
        )
    return path


def warm_up(machine: Machine) -> None:
    """Let every side load what it loads late."""
    report = machine.serve([machine.prompt()], 1)
    if report["errors"]:
        raise RuntimeError(report["errors"][0])
    for side in machine.sides:
        machine.bare(side, [machine.prompt()])


def measure_overhead(machine: Machine, rounds: int) -> dict[str, Any]:
    """One stream at a time through the server and in a bare loop of the same engine; pairs, in turns."""
    pairs: list[tuple[float, float]] = []
    for number in range(2 * rounds):
        rates: dict[str, float] = {}
        for side in ("server", "rows") if number % 2 else ("rows", "server"):
            report = (
                machine.serve([machine.prompt()], 1) if side == "server" else machine.bare("rows", [machine.prompt()])
            )
            rates[side] = report["tokens"] / report["seconds"]
        pairs.append((rates["server"], rates["rows"]))
    return {
        "server_tokens_per_second": round(median(server for server, _ in pairs), 1),
        "bare_tokens_per_second": round(median(bare for _, bare in pairs), 1),
        "overhead": round(median(bare / server - 1 for server, bare in pairs), 4),
        "pairs": [round(bare / server - 1, 3) for server, bare in pairs],
    }


def measure_repeated(machine: Machine, rounds: int) -> dict[str, Any]:
    """Time to the first token of a prompt that comes for the first time, and of the same one again."""
    cold: list[float] = []
    warm: list[float] = []
    cached: set[int] = set()
    for _ in range(2 * rounds):
        prompt = machine.prompt()
        first, second = (machine.serve([prompt], 1)["answers"][0] for _ in range(2))
        cold.append(first["first"])
        warm.append(second["first"])
        cached.add(second["cached_tokens"])
    return {
        "cold_ms": round(1000 * median(cold), 1),
        "warm_ms": round(1000 * median(warm), 1),
        "ratio": round(median(first / again for first, again in zip(cold, warm, strict=True)), 1),
        "prompt_tokens": first["prompt_tokens"],
        "cached_tokens": sorted(cached),
    }


def measure_clients(machine: Machine) -> dict[str, Any]:
    """64 clients at once against one: prompts that share their first words, as a system prompt, and all others."""
    return {
        name: _compare_clients(machine, shared)
        for name, shared in (("shared_prefix", " ".join(machine.words[:SHARED_WORDS])), ("no_shared_prefix", ""))
    }


def _compare_clients(machine: Machine, shared: str) -> dict[str, Any]:
    alone: list[float] = []
    first_alone: list[float] = []
    reports = []
    for at_once in (1, NUM_CLIENTS, 1):
        num_answers = 4 if at_once == 1 else NUM_CLIENTS * ANSWERS_EACH
        report = machine.serve([machine.prompt(shared) for _ in range(num_answers)], at_once)
        reports.append(report)
        if at_once == 1:
            alone.append(report["tokens"] / report["seconds"])
            first_alone += [answer["first"] for answer in report["answers"] if "error" not in answer]
    many = reports[1]
    # The first answer of each client comes when all ask at the same moment; the second when there is room.
    first = [answer["first"] for answer in many["answers"] if "error" not in answer] or [float("nan")]
    rate = many["tokens"] / many["seconds"]
    return {
        "errors": list(chain.from_iterable(report["errors"] for report in reports))[:5],
        "num_errors": sum(len(report["errors"]) for report in reports),
        "answers": len(many["answers"]),
        "tokens_per_second": round(rate, 1),
        "one_client_tokens_per_second": round(median(alone), 1),
        "ratio": round(rate / median(alone), 2),
        "first_token_p50_ms": round(1000 * float(np.quantile(first, 0.5))),
        "first_token_p95_ms": round(1000 * float(np.quantile(first, 0.95))),
        "one_client_first_token_ms": round(1000 * median(first_alone)),
    }


def measure_beside(machine: Machine, rounds: int) -> dict[str, Any]:
    """The server and the bare engines in turns: first token, decoding one stream, eight answers at once."""
    sides = ["server", *machine.sides]
    found: dict[str, dict[str, list[float]]] = {
        side: {"first_ms": [], "again_ms": [], "decode": [], "batch": []} for side in sides
    }
    for number in range(rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            one, many = machine.prompt(), [machine.prompt() for _ in range(BATCH)]
            for kind in ("first_ms", "again_ms"):
                report = machine.serve([one], 1) if side == "server" else machine.bare(side, [one])
                answer = (
                    report["answers"][0] if side == "server" else {"first": report["first"], "last": report["seconds"]}
                )
                found[side][kind].append(1000 * answer["first"])
                found[side]["decode"].append((machine.new_tokens - 1) / (answer["last"] - answer["first"]))
            report = machine.serve(many, BATCH) if side == "server" else machine.bare(side, many)
            found[side]["batch"].append(report["tokens"] / report["seconds"])
    return {side: {kind: round(median(values), 1) for kind, values in each.items()} for side, each in found.items()}


def judge(results: dict[str, Any]) -> bool:
    """Whether the promises hold; a trial on the small shape promises nothing but whole answers."""
    clients = results["clients"]
    no_errors = all(each["num_errors"] == 0 for each in clients.values())
    if results["shape"] == "small":
        return no_errors
    fast = clients["shared_prefix"]["ratio"] >= 4 and results["repeated_prompt"]["ratio"] >= 5
    return no_errors and fast and results["single_stream"]["overhead"] < 0.05


def tell(results: dict[str, Any]) -> None:
    """Print what a person reads."""
    single, again = results["single_stream"], results["repeated_prompt"]
    print(
        f"one stream: server {single['server_tokens_per_second']} tokens/s, bare engine "
        f"{single['bare_tokens_per_second']}, overhead {single['overhead']:.1%}"
    )
    print(
        f"a prompt of {again['prompt_tokens']} tokens: first token after {again['cold_ms']} ms, again "
        f"{again['warm_ms']} ms ({again['ratio']}x)"
    )
    for name, each in results["clients"].items():
        print(
            f"{NUM_CLIENTS} clients, {name}: {each['num_errors']} errors, {each['tokens_per_second']} tokens/s, "
            f"{each['ratio']}x one client's {each['one_client_tokens_per_second']}; first token p50 "
            f"{each['first_token_p50_ms']} ms, p95 {each['first_token_p95_ms']} ms"
        )
    for side, each in results["beside"].items():
        print(
            f"{side:10} first token {each['first_ms']:7.1f} ms, again {each['again_ms']:7.1f} ms, "
            f"one stream {each['decode']:6.1f} tokens/s, {BATCH} at once {each['batch']:6.1f}"
        )
