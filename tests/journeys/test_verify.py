"""`kivnun verify`: a run, one form's folder elsewhere, and a real HTTP server that answers from our own engine."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from journey import Ended, FinishedRun, hash_of
from safetensors.torch import load_file, save_file

from kivnun.data.encode import Encoder
from kivnun.generation.torch_engine import TorchEngine
from kivnun.models.load import load_model, load_tokenizer
from kivnun.optimization.golden import read_golden
from kivnun.optimization.reference import check_form, read_reference
from kivnun.optimization.served import whole_text

Command = Callable[..., Ended]


@pytest.fixture
def copied_run(finished_run: FinishedRun, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run.folder, tmp_path / "run")


def test_a_finished_run_verifies_and_shows_now_beside_then(finished_run: FinishedRun, kivnun_here: Command) -> None:
    ended = kivnun_here("verify", finished_run.folder)
    assert ended.status == 0, ended.err
    assert "golden prompts fixed when training ended" in ended.out
    assert ended.out.count("passed") == 2
    ended = kivnun_here("verify", finished_run.folder, "--json", "--threads", "1")
    report = json.loads(ended.out)
    assert [form["recorded"]["name"] for form in report["forms"]] == ["merged", "int4 k_quant/32 ONNX"]
    for form in report["forms"]:
        assert form["verdict"] == "passed"
        for name in ("identical", "num_prompts", "score"):
            assert form["here"][name] == form["recorded"][name]
        assert form["here"]["divergence"] == pytest.approx(form["recorded"]["divergence"], abs=1e-5)
        assert form["here"]["tokens_per_second"] > 0


def test_the_golden_prompts_are_fixed_when_training_ends(finished_run: FinishedRun) -> None:
    golden = read_golden(finished_run.folder / "model")
    assert golden is not None
    rows = [
        json.loads(line) for line in (finished_run.folder / "dataset" / "test.jsonl").read_text("utf-8").splitlines()
    ]
    assert [list(prompt.token_ids) for prompt in golden.prompts] == [row["prompt_ids"] for row in rows]
    assert [prompt.answer for prompt in golden.prompts] == [row["answer"] for row in rows]
    assert (golden.task, golden.max_new_tokens) == ("classification", 8)
    certificate = json.loads((finished_run.folder / "optimized" / "parity.json").read_text("utf-8"))
    assert certificate["golden"] == hash_of(finished_run.folder / "model" / "golden.json")
    assert certificate["fixed_at"] == "training"
    assert certificate["verdict"] == "passed"


def test_one_form_verifies_by_itself_anywhere(finished_run: FinishedRun, kivnun_here: Command, tmp_path: Path) -> None:
    folder = shutil.copytree(finished_run.folder / "optimized" / "onnx-int4", tmp_path / "int4 from the hub")
    ended = kivnun_here("verify", folder, "--json")
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["verdict"] == "passed"


def test_a_run_whose_file_was_changed_is_refused(copied_run: Path, kivnun_here: Command) -> None:
    path = copied_run / "optimized" / "merged" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.weight"] *= -1
    save_file(weights, path, {"format": "pt"})
    ended = kivnun_here("verify", copied_run)
    assert ended.status == 2
    assert "error[artifact-damaged]" in ended.err
    # Alone and with a forged hash it is the answers that tell.
    folder = copied_run / "optimized" / "merged"
    certificate = json.loads((folder / "parity.json").read_text("utf-8"))
    certificate["files"]["merged"]["model.safetensors"] = hash_of(path)
    (folder / "parity.json").write_text(json.dumps(certificate), "utf-8")
    ended = kivnun_here("verify", folder, "--json")
    assert ended.status == 2
    assert "error[parity-failed]" in ended.err
    assert json.loads(ended.out)["verdict"] == "failed"


def test_another_template_is_not_what_was_certified(copied_run: Path, kivnun_here: Command) -> None:
    path = copied_run / "optimized" / "onnx-int4" / "template.json"
    path.write_text(path.read_text("utf-8").replace("Tone", "Mood"), "utf-8")
    ended = kivnun_here("verify", path.parent)
    assert ended.status == 2
    assert f"{path}: differs from what was certified" in ended.err


def test_golden_prompts_that_are_not_those_of_the_training_are_refused(copied_run: Path, kivnun_here: Command) -> None:
    path = copied_run / "model" / "artifact.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["files"]["golden.json"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest), "utf-8")
    ended = kivnun_here("verify", copied_run)
    assert ended.status == 2
    assert "is not the file that was fixed when the training" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "error[run-missing]"),
        ([".", "--endpoint", "http://127.0.0.1:9/v1"], "belong together"),
        ([".", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--threads", "2"], "has no effect"),
    ],
    ids=["nowhere", "no model", "threads"],
)
def test_what_cannot_be_verified_is_refused(kivnun_here: Command, words: list[str], said: str) -> None:
    ended = kivnun_here("verify", *words)
    assert ended.status == 2
    assert said in ended.err


@dataclass
class Server:
    """A server of text completions over an engine of ours, and what it takes and tells."""

    engine: TorchEngine
    encoder: Encoder
    stop_ids: frozenset[int]
    takes_tokens: bool = True
    most_logprobs: int = 20
    url: str = ""
    requests: list[dict] = field(default_factory=list)

    def answer(self, request: dict) -> tuple[int, dict]:
        self.requests.append(request)
        prompt, count = request["prompt"], request.get("logprobs")
        if request["temperature"] != 0 or (count is not None and count > self.most_logprobs):
            return 400, {"error": {"message": "logprobs"}}
        if isinstance(prompt, list) and not self.takes_tokens:
            return 422, {"error": {"message": "prompt must be a string"}}
        ids = prompt if isinstance(prompt, list) else self.encoder.encode_prompt(prompt)
        [said] = self.engine.generate([ids], max_new_tokens=request["max_tokens"], stop_ids=self.stop_ids)
        told = None if count is None else self.tell(ids, said.token_ids, count)
        choice = {"index": 0, "text": self.encoder.decode(said.token_ids), "finish_reason": said.finished}
        choice["logprobs"] = told
        return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}

    def tell(self, ids: list[int], answer: tuple[int, ...], count: int) -> dict:
        tops, names = [], []
        contexts = [[*ids, *answer[:place]] for place in range(len(answer) + 1)]
        for context, logits_V in zip(contexts, self.engine.forced_logits(ids, answer), strict=True):
            log_p = logits_V.astype(np.float64) - np.logaddexp.reduce(logits_V.astype(np.float64))
            before = whole_text(self.encoder, context[-1:])
            text = {
                int(t): whole_text(self.encoder, [context[-1], int(t)])[len(before) :]
                for t in np.argsort(-log_p)[:count]
            }
            tops.append({text[t]: float(log_p[t]) for t in reversed(text)})
            names.append(text)
        if not answer:
            return {"tokens": [""], "token_logprobs": [0.0], "top_logprobs": tops[:1]}
        tokens = [names[place][token] for place, token in enumerate(answer)]
        return {"tokens": tokens, "token_logprobs": [0.0] * len(tokens), "top_logprobs": tops[: len(tokens)]}


@pytest.fixture
def served(finished_run: FinishedRun) -> Iterator[Server]:
    merged = finished_run.folder / "optimized" / "merged"
    encoder = Encoder(load_tokenizer(merged))
    golden = read_golden(merged)
    assert golden is not None
    model = load_model(merged, dtype=torch.float32)
    state = Server(TorchEngine(model, pad_id=encoder.end_id), encoder, golden.stop_ids)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer = state.answer(request) if self.path == "/v1/completions" else (404, {})
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def ask(kivnun_here: Command, run: FinishedRun, served: Server) -> tuple[Ended, dict]:
    folder = run.folder / "optimized" / "merged"
    ended = kivnun_here("verify", folder, "--endpoint", served.url, "--model", "m", "--json")
    assert ended.out, ended.err
    return ended, json.loads(ended.out)


def test_a_server_of_the_certified_model_passes_in_text_tokens_and_probabilities(
    finished_run: FinishedRun, served: Server, kivnun_here: Command
) -> None:
    ended, report = ask(kivnun_here, finished_run, served)
    assert ended.status == 0, ended.err
    here = report["forms"][0]["here"]
    assert (here["identical"], here["num_prompts"], here["token_agreement"]) == (12, 12, 1.0)
    assert here["divergence"] < 1e-5
    assert here["score"] == report["forms"][0]["recorded"]["score"]
    assert here["tokens_per_second"] > 0
    assert "asked with token ids; it tells the 16 likeliest tokens" in report["served"]


@pytest.mark.parametrize(("most_logprobs", "told"), [(5, "the 5 likeliest tokens"), (-1, "no probabilities")])
def test_a_server_that_takes_texts_alone_is_compared_by_its_answers(
    finished_run: FinishedRun, served: Server, kivnun_here: Command, most_logprobs: int, told: str
) -> None:
    served.takes_tokens, served.most_logprobs = False, most_logprobs
    ended, report = ask(kivnun_here, finished_run, served)
    assert ended.status == 0, ended.err
    here = report["forms"][0]["here"]
    assert (here["identical"], here["divergence"], here["token_agreement"]) == (12, None, None)
    assert (
        f"asked with texts, for it takes no token ids: its own tokenizer reads them; it tells {told}"
        in report["served"]
    )


def test_a_server_of_another_model_fails(finished_run: FinishedRun, served: Server, kivnun_here: Command) -> None:
    model = load_model(finished_run.folder / "optimized" / "merged", dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(model.get_output_embeddings().weight.roll(7, dims=0))
    served.engine = TorchEngine(model, pad_id=served.encoder.end_id)
    ended, report = ask(kivnun_here, finished_run, served)
    assert ended.status == 2
    assert "error[parity-failed]" in ended.err
    here = report["forms"][0]["here"]
    assert here["identical"] < 6
    # The same figures as of the engine itself, but that a part of a letter has no text to tell it by.
    merged = finished_run.folder / "optimized" / "merged"
    golden, reference = read_golden(merged), read_reference(merged)
    assert golden is not None
    check = check_form(served.engine, golden, reference, tie_tolerance=1e-3)
    assert check.token_agreement == pytest.approx(here["token_agreement"], abs=0.05)
    assert 1e-4 < here["divergence"] < check.divergence + 1e-6


def test_an_address_without_completions_is_said(
    finished_run: FinishedRun, served: Server, kivnun_here: Command
) -> None:
    folder = finished_run.folder / "optimized" / "merged"
    ended = kivnun_here("verify", folder, "--endpoint", f"{served.url}/wrong", "--model", "m")
    assert ended.status == 2
    assert "error[endpoint-failed]" in ended.err
    assert "/completions" in ended.err
