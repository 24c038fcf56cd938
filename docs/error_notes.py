"""What the page of errors says beyond `kivnun.errors.CODES`: a real example of each error, and what to do about it.

An example is made by raising the error, in an empty folder, with the code that a command runs; its text is never copied
by hand. Errors that name a process or a machine have no example.
"""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from kivnun.asking.kept import KeptAnswers
from kivnun.asking.request import Reply
from kivnun.assessment.judge import require_readable
from kivnun.assessment.judge_prompts import read_verdict
from kivnun.assessment.pairs import PairedAnswers, read_pairs, require_same_answers
from kivnun.azure.job import write_job
from kivnun.cli.recipe import init
from kivnun.data.conversation import Conversation, Message
from kivnun.data.convert import ConvertOptions, convert_data, find_target
from kivnun.data.encode import Encoder
from kivnun.data.files.find import find_data
from kivnun.data.folder import read_dataset, write_dataset
from kivnun.data.labels import collect_classes
from kivnun.data.preflight import check_splits, require_no_errors
from kivnun.data.prepare import PreparedData, tokenize_splits
from kivnun.data.reading import ReadData, read_conversations, read_data
from kivnun.data.sources import read_rows
from kivnun.data.template import PromptTemplate
from kivnun.data.tokens import TokenizedRow, make_table
from kivnun.database.keys import revoke_key
from kivnun.database.open import Database, open_database, sqlite_url
from kivnun.database.projects import ensure_defaults, find_project
from kivnun.decide.freeze import freeze_rows, require_same
from kivnun.enrichment.enrich import EnrichOptions, plan_questions
from kivnun.errors import UserError
from kivnun.evaluation.runner import EvalRow, score_classification
from kivnun.evaluation.scoring import ScoredRow, Scoring, require_metrics, require_scorable
from kivnun.evaluation.stage import eval_rows, require_answers_fit
from kivnun.generation.adapter_list import unknown_adapter
from kivnun.generation.agreement import ParityRow, compare_answers, require_parity
from kivnun.generation.engine import Generation, logits_not_finite, require_prompts_fit
from kivnun.generation.sampling import Sampling
from kivnun.methods.adapter import read_adapter
from kivnun.methods.lora import find_targets
from kivnun.models.attention import use_packed_attention
from kivnun.models.new import make_model, train_tokenizer
from kivnun.models.resolve import resolve_model
from kivnun.olive.translate import read_translation
from kivnun.optimization.adapter_sources import find_sources
from kivnun.optimization.choice import choose
from kivnun.optimization.onnx import require_onnx_files
from kivnun.prices import load_prices
from kivnun.publishing import require_repo_id
from kivnun.recipe import DataSection, EvaluationSection, NewModel, SplitSection, TrainingSection, load_recipe
from kivnun.recipe.objectives import CustomObjective, DpoObjective
from kivnun.recipe.optimization import OptimizationSection
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.embedders import open_embedder
from kivnun.retrieval.index import build_index, open_index
from kivnun.runs import find_run, open_run, verify_artifact, write_stage
from kivnun.runs.atomic import disk_full_as_user_error
from kivnun.search.loop import require_a_value
from kivnun.search.plan import plan_search
from kivnun.search.trials import Trial, require_same_search
from kivnun.server.binding import listen, require_safe
from kivnun.server.service import ServeSettings
from kivnun.serving.json_schema import Grammars, json_source
from kivnun.serving.text import vocabulary_of
from kivnun.training.loop import fit, make_plan
from kivnun.training.objectives.custom import load_custom
from kivnun.training.optimizer import MasterWeights

TEMPLATE = "Text: {phrase}\nTone: {tone}"
ROWS = (
    {"phrase": "I got the job!", "tone": "joy"},
    {"phrase": "איבדתי את המפתחות שוב", "tone": "sadness"},
    {"phrase": "Steps on the stairs at night", "tone": "fear"},
    {"phrase": "You are here already?", "tone": "surprise"},
)
SHAPE = NewModel(
    hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
)


@dataclass(frozen=True)
class ErrorNote:
    """What the page says of one error.

    Attributes:
        advice: What to do, in one to three sentences.
        raise_it: Raises the error in an empty current folder; None where its text differs from machine to machine.
    """

    advice: str
    raise_it: Callable[[], object] | None = None

    def example(self) -> str | None:
        """The text that the command line prints."""
        if self.raise_it is None:
            return None
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            try:
                self.raise_it()
            except UserError as error:
                return str(error)
        raise RuntimeError(f"{self.raise_it.__name__} raised no error")


def _write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def _write_rows(*rows: object) -> str:
    return _write("data/tone.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _prepare(data: DataSection) -> PreparedData:
    return tokenize_splits(*read_conversations(data, "supervised"), data, _encoder())


def _encoder() -> Encoder:
    return Encoder(train_tokenizer([row["phrase"] for row in ROWS], 300))


def _data(*rows: object, template: str | None = TEMPLATE, **changes: object) -> DataSection:
    kept_whole = {"split": SplitSection(validation=0, test=0)}
    return DataSection.model_validate({"train": _write_rows(*rows), "text_template": template, **kept_whole, **changes})


def _answer_cut() -> None:
    _prepare(_data(*ROWS[:1], {"phrase": "very " * 40 + "long", "tone": "joy"}, max_seq_len=64))


def _artifact_damaged() -> None:
    with write_stage(Path("runs/tone"), "model", kind="model", key="") as folder:
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    Path("runs/tone/model/adapter_model.safetensors").write_bytes(b"changed")
    verify_artifact(Path("runs/tone/model"))


def _data_check() -> None:
    data = _data(*ROWS, test=_write("data/test.jsonl", json.dumps(ROWS[0]) + "\n"))
    report = check_splits(read_data(data, "supervised"), data, name="recipe.yaml")
    require_no_errors(report, recipe="recipe.yaml")


def _data_encoding() -> None:
    Path("tone.csv").write_bytes("phrase,tone\nשלום,joy\n".encode("cp1255"))
    read_rows("tone.csv")


def _format_loss() -> None:
    turns = [{"role": "system", "content": "Name the tone."}, {"role": "user", "content": "I got the job!"}]
    _write_rows({"messages": [*turns, {"role": "assistant", "content": "joy"}]})
    convert_data(find_data("data/tone.jsonl"), Path("tone.jsonl"), ConvertOptions(find_target("palm-text")))


def _disk_full() -> None:
    with disk_full_as_user_error(Path("runs/tone/model")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _enrich_nothing() -> None:
    document = Message("assistant", "פעם אחת היה עץ.", trained=True)
    plan_questions([Conversation((document,), {}, "book.txt:1")], EnrichOptions())


def _label_unknown() -> None:
    rows = {
        "train": [_labelled("joy", 1), _labelled("fear", 2)],
        "validation": [],
        "test": [_labelled("anger", 3)],
    }
    collect_classes(rows)


def _labelled(label: str, line: int) -> Conversation:
    turns = (Message("user", f"text {line}", trained=False), Message("assistant", label, trained=True))
    return Conversation(turns, {"label": label}, f"rows.jsonl:{line}")


def _evaluation_label() -> None:
    data = _data(*ROWS, template=None, prompt_template="{phrase}\n", answer_template="It is {tone}")
    Path("dataset").mkdir()
    write_dataset(_prepare(data), Path("dataset"))
    eval_rows(read_dataset(Path("dataset")), "train", EvaluationSection(task="classification", label="tone"))


def _evaluation_invalid() -> None:
    rows = [ScoredRow("", f"rows.jsonl:{line}", "Where?", (answer,), {}) for line, answer in ((1, "Haifa"), (2, " "))]
    require_scorable(rows, Scoring("question_answering"))


def _index(folder: str = "handbook-index", **changes: object) -> None:
    _write("handbook/travel.md", "Travel is approved by the team's lead.\n")
    settings = RetrievalSection.model_validate({"documents": "handbook", **changes})
    build_index(settings, Path(folder), log=lambda _event, _fields: None)


def _document_unreadable() -> None:
    _write("scans/contract.pdf", "this is no PDF")
    _index(documents="scans")


def _index_differs() -> None:
    _index()
    _index(chunk_tokens=100)


def _index_empty() -> None:
    _index()
    with open_index(Path("handbook-index")) as index:
        index.store.delete_documents(list(index.store.documents()))
        index.search("who approves travel?", 3)


def _decide_data(test: str) -> ReadData:
    rows = [{"phrase": f"phrase number {number}", "tone": "joy"} for number in range(20)]
    test_rows = "".join(json.dumps({**row, "phrase": row["phrase"].replace("phrase", test)}) + "\n" for row in rows)
    return read_data(_data(*rows, test=_write("data/test.jsonl", test_rows)), "supervised")


def _open_database() -> Database:
    database = open_database(sqlite_url(Path()))
    ensure_defaults(database)
    return database


def _unknown_key() -> None:
    with closing(_open_database()) as database, database.writing() as session:
        revoke_key(session, "key_1")


def _unknown_project() -> None:
    with closing(_open_database()) as database, database.reading() as session:
        find_project(session, "turism")


def _decide_differs() -> None:
    frozen = freeze_rows(_decide_data("sentence"), near=False)
    Path("runs/tone-decide").mkdir(parents=True)
    for seed in (0, 1):
        require_same(Path("runs/tone-decide"), frozen, {"decide.seed": seed})


def _rows_differ() -> None:
    for name, row_id in (("a", "1"), ("b", "2")):
        row = {"row_id": row_id, "where": f"test.jsonl:{row_id}", "prompt": "Where?", "references": ["Haifa"]}
        _write(f"evaluations/{name}/rows.jsonl", json.dumps({**row, "answer": "Haifa"}) + "\n")
    read_pairs(Path("evaluations/a"), Path("evaluations/b"))


def _metric_invalid() -> None:
    require_metrics(Scoring("generation", metrics=("blue",)))


def _answer_too_long() -> None:
    row = EvalRow("1", "phrases.jsonl:1", "a phrase", (5, 6), "a long answer", {})
    table = make_table([TokenizedRow([5, 6, 7, 8, 9, 0], [False, False, True, True, True, True])])
    require_answers_fit([row], table, EvaluationSection(task="generation", max_new_tokens=2))


def _azure_invalid() -> None:
    Path("recipe.yaml").write_text(
        "base_model: bundled\ndata: {train: train.json, text_template: '{phrase} {tone}'}\nwhere:\n  kind: azureml\n"
        "  subscription_id: '0000'\n  resource_group: research\n  workspace_name: tuning\n  compute: gpu-cluster\n"
        "  inputs: {trian.json: azureml://datastores/workspaceblobstore/paths/train.json}\n"
    )
    write_job(load_recipe(Path("recipe.yaml")), Path("job"))


def _export_failed() -> None:
    Path("onnx-int4").mkdir()
    require_onnx_files(Path("onnx-int4"))


def _loss_not_finite() -> None:
    model = make_model(SHAPE, train_tokenizer([], 300), seed=0)
    use_packed_attention(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(torch.inf)
    settings = TrainingSection(max_steps=1)
    table = make_table([TokenizedRow([1, 2, 3], [False, True, True])])
    plan = make_plan(table.lengths(), settings)
    next(fit(model, MasterWeights({}, {}, []), table, settings, plan=plan))


def _messages_invalid() -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "asistant", "content": "hi"}]
    _prepare(_data({"messages": turns}, template=None))


def _limits_unmet() -> None:
    tuned = ParityRow("tuned", "fp32", 25_000_000, 900.0, 40, 40, 0, 0, 0.90)
    forms = [
        ParityRow("int8 k_quant/32 ONNX", "int8", 7_000_000, 1500.0, 40, 39, 0, 1, 0.90),
        ParityRow("int4 k_quant/32 ONNX", "int4", 4_000_000, 2100.0, 40, 33, 0, 7, 0.81),
    ]
    choose(forms, OptimizationSection(precision="auto", max_size="5MB", min_score="0.98x"), tuned=tuned)


def _logits_not_finite() -> None:
    raise logits_not_finite("onnx")


def _olive_invalid() -> object:
    Path("olive.yaml").write_text(
        "input_model: {type: HfModel, model_path: org/model}\n"
        "data_configs:\n"
        "  - {name: rows, load_dataset_config: {data_files: rows.json}}\n"
        "passes:\n"
        "  lora: {type: LoRA, lora_rank: 8, double_quant: true}\n"
    )
    return read_translation(Path("olive.yaml"))


def _other_tool() -> object:
    text = "task: llm-sft\nbase_model: org/name\ndata: {path: rows.jsonl}\nparams: {lr: 1e-4, quantization: int4}\n"
    return read_translation(Path(_write("autotrain.yml", text)))


def _nothing_to_learn() -> None:
    empty = {"train": [], "validation": [], "test": []}
    tokenize_splits(PromptTemplate("text"), empty, _data(*ROWS), _encoder())


def _preference_invalid() -> None:
    plain = {"prompt": "What is the sun?", "completion": "A star."}
    rows = [{"prompt": "What is the moon?", "chosen": "A rock that circles us.", "rejected": "A lamp."}, plain]
    data = [_data(row, template=None, train=_write(f"data/{n}.jsonl", json.dumps(row))) for n, row in enumerate(rows)]
    both = data[0].model_copy(update={"train": tuple(str(each.train) for each in data)})
    tokenize_splits(*read_conversations(both, "dpo"), both, _encoder(), DpoObjective())


def _parity_failed() -> None:
    reference = Generation((5, 7), "stop", (2.1, 0.8, 3.0))
    other = Generation((5, 9), "stop", (2.1, 0.4, 3.0))
    require_parity("fp32 ONNX", compare_answers([reference], [other], tie_tolerance=1e-3))


def _recipe_invalid() -> None:
    text = "base_model: bundled\ndata:\n  train: data/tone.jsonl\nmethod: {kind: lora, rnk: 8, alpha: -1}\n"
    load_recipe(Path(_write("bad.yaml", text)))


def _run_folder_taken() -> None:
    _write("photos/summer.txt", "mine")
    open_run(Path("photos"))


def _unsupported_schema() -> object:
    tokenizer = train_tokenizer(["a"], 300)
    grammars = Grammars(vocabulary_of(Encoder(tokenizer)).grammar_tokenizer)
    return grammars.compile(json_source({"type": "object", "not": {}}), "response_format 'answer'")


def _other_search() -> None:
    require_same_search(Path(), {"recipe": "one", "seed": 0})
    require_same_search(Path(), {"recipe": "one", "seed": 1})


def _unknown_searched_field() -> None:
    recipe = Path("recipe.yaml")
    init(recipe)
    plan_search(load_recipe(recipe, ["search={space: {learning_rat: {type: float, low: 1e-5, high: 1e-2}}}"]))


def _target_modules() -> None:
    find_targets(make_model(SHAPE, train_tokenizer([], 300), seed=0), ("query_key_value",))


def _adapter_taken() -> None:
    folders = [Path("monday/classifier"), Path("tuesday/classifier")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
    find_sources(list(map(str, folders)))


def _adapter_unknown() -> None:
    raise unknown_adapter("clasifier", ["classifier", "generator"], Path("models/multi-adapter"))


NOTES: dict[str, ErrorNote] = {
    "adapter-invalid": ErrorNote(
        "An adapter is usable only with the base model that it was trained on: `base_model.json` beside it holds the "
        "hash of that model's weights, and another hash is refused. From PEFT's folders, what changes a computation "
        "that Kivnun does not know is refused too; merge such an adapter with PEFT and use the merged folder as "
        "`base_model`.",
        lambda: read_adapter(Path("adapter")),
    ),
    "adapter-taken": ErrorNote(
        "Requests choose an adapter by its name, which is its folder's own unless it is given as `name=folder`. "
        "`kivnun adapters remove` makes room for another one of the same name.",
        _adapter_taken,
    ),
    "adapter-unknown": ErrorNote(
        "`kivnun adapters list` shows the adapters of a model. One that was being added when the command was "
        "interrupted is not there; add it again.",
        _adapter_unknown,
    ),
    "address-taken": ErrorNote(
        "Another program listens there, often an earlier `kivnun serve`; or the address is none of this machine's. "
        "Name another port with `--port`; `--port 0` takes a free one and says which.",
        lambda: listen(ServeSettings(Path("data"), host="203.0.113.7")),
    ),
    "answer-cut": ErrorNote(
        "A row that is cut at the end loses its answer, and the model would learn to stop in the middle. Raise "
        "`data.max_seq_len` (up to the model's context), shorten the rows, or let them be dropped and counted with "
        "`data.on_too_long: drop`.",
        _answer_cut,
    ),
    "answer-failed": ErrorNote(
        "Only the answers that were computed in the same step end with it; the server goes on. Its log names the place "
        "in the code, never the text that a client sent. If it happens again, report it."
    ),
    "answer-too-long": ErrorNote(
        "A model that must stop after `evaluation.max_new_tokens` tokens could never give these answers, and its score "
        "would say so without a word. Raise the limit to what the error names.",
        _answer_too_long,
    ),
    "artifact-damaged": ErrorNote(
        "Remove the stage folder and give the same command again: only that stage, and those made from it, are made "
        "anew. A form's folder that was copied is copied again from where it was made.",
        _artifact_damaged,
    ),
    "azure-credentials": ErrorNote(
        "The job's files are kept in the run folder under `job/`. Sign in (`az login`, a managed identity or the "
        "environment variables of azure-identity) and run the same command again.",
    ),
    "azure-failed": ErrorNote(
        "The words are Azure's own. The job's files are kept in the run folder under `job/`; `az ml job create` "
        "takes them too.",
    ),
    "azure-invalid": ErrorNote(
        "Nothing was sent. `where.inputs` gives a place in the workspace to a path that the recipe reads, and the "
        "conda file of an environment must install Kivnun.",
        _azure_invalid,
    ),
    "constraint-failed": ErrorNote(
        "The schema or grammar that the answer must follow cannot be written with this model's tokens from where the "
        "answer stands. Loosen it, or leave the format out and check the answer yourself."
    ),
    "data-check": ErrorNote(
        "Mend the rows that are named, or move them; `kivnun check` with the recipe shows all findings and what to do. "
        "What you know and accept goes into `data.ignore_checks`, and is still counted aloud.",
        _data_check,
    ),
    "data-empty": ErrorNote("Look into the file; it may be the wrong one.", lambda: read_rows(_write("tone.csv", ""))),
    "data-encoding": ErrorNote(
        "Kivnun reads UTF-8 only: guessing an encoding would train wrong letters silently. Older Hebrew files from "
        "Windows are often in cp1255; the hint shows how to convert them.",
        _data_encoding,
    ),
    "data-field": ErrorNote(
        "Every row must have every field that a template names. An empty field would be trained as if it were text, "
        "and a special token in a row's own words, such as `<|endoftext|>`, would end an answer or forge a turn.",
        lambda: _prepare(_data(*ROWS[:1], {"phrase": "And now?"}, {"phrase": " ", "tone": "joy"})),
    ),
    "data-format": ErrorNote(
        "How a file is read follows from the end of its name and, for JSON, from how it begins; packed files are "
        "unpacked whatever they are called. Rename or convert the file.",
        lambda: read_rows(_write("tone.xlsx", "")),
    ),
    "data-malformed": ErrorNote(
        "Mend or remove the lines that are named. In a JSONL file each line is one whole JSON object.",
        lambda: read_rows(_write("tone.jsonl", '{"phrase": "a", "tone": "joy"}\n{"phrase": "b", tone: "joy"}\n')),
    ),
    "data-missing": ErrorNote(
        "A relative path starts from the current folder; if there is nothing, from the recipe's folder.",
        lambda: read_rows("data/tome.jsonl"),
    ),
    "database-failed": ErrorNote(
        "What the database said follows. Without `--database` it is a file in the data folder; with it, the server "
        "must run, and its database must be Kivnun's own or empty.",
        lambda: open_database("mysql://kivnun@localhost/kivnun"),
    ),
    "database-newer": ErrorNote(
        "A newer Kivnun changed the tables, and this one would misread them. Nothing was changed."
    ),
    "decide-differs": ErrorNote(
        "A folder of `kivnun decide` holds one comparison: the same rows, the same base model, the same training and "
        "metric. Name another folder with `--out`. Arms, further models, limits and budgets may change.",
        _decide_differs,
    ),
    "dependency-missing": ErrorNote(
        "Kivnun installs without the packages that only some commands need. The hint is the command that installs them."
    ),
    "disk-full": ErrorNote(
        "Free some space, or give a `--run-dir` on another disk. What was finished is kept, and nothing half-written "
        "stays behind.",
        _disk_full,
    ),
    "document-unreadable": ErrorNote(
        "Every file is listed with what is wrong with it. One that can be read is enough: the others are then left "
        "out, and said. A PDF of scanned pages has no text before it is recognised (OCR).",
        _document_unreadable,
    ),
    "embedder-missing": ErrorNote(
        "`none` searches by words and needs nothing. `builtin` is fetched once with `kivnun fetch minilm`; others are "
        "named as [Search documents](../howto/retrieval.md) says.",
        lambda: open_embedder("word2vec"),
    ),
    "endpoint-failed": ErrorNote(
        "The text says what the endpoint answered, without the key. Answers that came before are kept beside the "
        "output; the same command asks only for the rest."
    ),
    "engine-failed": ErrorNote(
        "The last lines of what the program said follow; `logs/vllm.log` in the data folder has the rest. A model that "
        "vLLM does not know is computed with `--engine torch`."
    ),
    "enrich-nothing": ErrorNote(
        "New rows are made from what a user says and an assistant answers in words. Rows with tools or pictures, and "
        "documents, have no such pair.",
        _enrich_nothing,
    ),
    "estimate-failed": ErrorNote(
        "An estimate runs real training steps in a process of its own; the text is the last line that it said. "
        "`--no-measure` counts tokens, memory and prices without training."
    ),
    "evaluation-invalid": ErrorNote(
        "Every row to evaluate on needs a right answer in the form of its task: JSON for an extraction, tests that the "
        "right answer passes for code. Columns and files that the `evaluation` section names must be there.",
        _evaluation_invalid,
    ),
    "evaluation-label": ErrorNote(
        "A classification compares the model's answer with a label column. The trained answer must therefore be the "
        "label and nothing else.",
        _evaluation_label,
    ),
    "export-failed": ErrorNote(
        "The lines above the hint are the end of the builder's own output. Models of the Llama, Qwen, Phi, Mistral and "
        "Gemma families, and GPT-2, export. Without an `optimization` section the run ends with the trained model.",
        _export_failed,
    ),
    "file-exists": ErrorNote(
        "Nothing is overwritten unless you say so.", lambda: init(Path(_write("recipe.yaml", "mine")))
    ),
    "file-unwritable": ErrorNote(
        "Name a file in a folder that you may write to; folders that are missing are made.",
        lambda: init(Path(_write("recipe.yaml", "mine")) / "tone.yaml"),
    ),
    "format-loss": ErrorNote(
        "Nothing was written. Choose a format that holds what the rows have, or take it out of them; further columns "
        "are left out, and counted, with `--drop-extra`.",
        _format_loss,
    ),
    "index-differs": ErrorNote(
        "Vectors of two embedders, or passages that were cut in two ways, cannot be searched together. The hint names "
        "the command that makes the index again.",
        _index_differs,
    ),
    "index-empty": ErrorNote(
        "There is nothing to search: the documents have no text, or everything was removed from them.",
        _index_empty,
    ),
    "index-missing": ErrorNote(
        "Make the index with `kivnun index DOCUMENTS --out FOLDER`, or check the path.",
        lambda: open_index(Path("handbook-index")),
    ),
    "judge-failed": ErrorNote(
        "A judge must answer with the JSON object that it is asked for, or with a last line such as `VERDICT: 1`; "
        "nothing is guessed from other words. Small models often cannot: take a larger one, or raise "
        "`--max-new-tokens` where its answers were cut off. Answers are kept and not asked again.",
        lambda: require_readable("small-model", [Reply("I like both.", "stop", 300, 4)], read_verdict, 400, 0.2),
    ),
    "key-invalid": ErrorNote(
        "Keys are named by their ids, which `kivnun keys list` shows; the key itself is shown only when it is made.",
        _unknown_key,
    ),
    "label-unknown": ErrorNote(
        "A classifier has a class for each label of the training rows and can answer with no other. The objective "
        "`classification` takes the answer of a row as its label.",
        _label_unknown,
    ),
    "limits-unmet": ErrorNote(
        "Each form is listed with the limits that it breaks and what it has instead. Loosen the limit that the nearest "
        "one breaks, or tune a smaller base model. Times and memory are those of this machine.",
        _limits_unmet,
    ),
    "logits-not-finite": ErrorNote(
        "The weights are broken, since a finite model gives finite logits. Train again with a lower learning rate, or "
        "in fp32.",
        _logits_not_finite,
    ),
    "loss-not-finite": ErrorNote(
        "The weights were not touched by the failed step. Lower `training.learning_rate`. If it happens on step 1, the "
        "base model's own weights are at fault; look at the rows that are named, too.",
        _loss_not_finite,
    ),
    "memory-full": ErrorNote(
        "Large files are checked by several processes. Close other programs, or leave out the search for near "
        "duplicates: `--near off` needs far less memory."
    ),
    "messages-invalid": ErrorNote(
        "Rows of conversations follow OpenAI's format: a list of turns, each with `role` and `content`, the last one "
        "the assistant's. An assistant's turn may have `weight: 0`, which keeps it from being trained.",
        _messages_invalid,
    ),
    "metric-invalid": ErrorNote(
        "Name one of the metrics that are listed, or install a package with an entry point of the group "
        "`kivnun.metrics`: a function of an answer, the right answers and the row's fields that returns a number from "
        "0 to 1.",
        _metric_invalid,
    ),
    "model-invalid": ErrorNote(
        "A model folder needs `config.json`, weights in `*.safetensors` and a tokenizer with an end-of-text token. "
        "Pickled weights (`*.bin`) are not loaded, since loading one runs whatever code is in it.",
        lambda: resolve_model(str(Path(_write("my-model/config.json", "{}")).parent)),
    ),
    "model-missing": ErrorNote(
        "Write `bundled`, a folder, or a Hugging Face id such as `org/name`. An id is fetched once and then read from "
        "the cache; gated models need `hf auth login`, or `HF_TOKEN` in the environment. A folder in MLflow's format, "
        "as Azure keeps models, is one too: the model inside is found.",
        lambda: resolve_model("./my-model"),
    ),
    "model-too-large": ErrorNote(
        "`kivnun serve` counts weights and caches against the memory that it may use. An int4 export takes an eighth "
        "of the memory of fp32 weights."
    ),
    "nothing-to-learn": ErrorNote(
        "A run without a trained token would end with loss 0 and an unchanged model. `kivnun preview` shows which "
        "tokens are trained.",
        _nothing_to_learn,
    ),
    "objective-invalid": ErrorNote(
        "A loss of your own is found by its name among the entry points of the group `kivnun.objectives`, called with "
        "`training.objective.options`, and must give an object with `start`, `count`, `prepare_step` and `loss`. "
        "[Train with a loss of your own](../howto/own-loss.md) shows a whole one.",
        lambda: load_custom(CustomObjective(kind="custom", name="focal")),
    ),
    "olive-invalid": ErrorNote(
        "Each line names a key of the file or a flag of the command, and says what to write instead. [Olive's files]"
        "(olive.md) lists every key with what becomes of it. No key is ignored, since one that is trains another model "
        "than was asked for.",
        _olive_invalid,
    ),
    "other-tool": ErrorNote(
        "Files and commands of AutoTrain and TRL are recognised and not run: each line names a key, and what a recipe "
        "has for it. Olive's run as they are.",
        _other_tool,
    ),
    "parity-failed": ErrorNote(
        "For a merged or fp32 form this is a defect, in Kivnun or in what it builds on: report it with the lines that "
        "are shown. For a quantised form it means that it drifted further than `optimization.min_agreement` or "
        "`optimization.max_divergence` allows: a smaller `optimization.block_size` loses less. From `kivnun verify` it "
        "means that the model is not the one that was certified, or is not run as it was.",
        _parity_failed,
    ),
    "preference-invalid": ErrorNote(
        "The objectives `dpo` and `orpo` learn from rows with a preferred and a rejected answer, `kto` from those or "
        "from answers that are marked good or bad. Two answers that are the same tokens teach nothing. Formats: "
        "`preference`, `openai-preference`, `gemini-preference` and `kto`.",
        _preference_invalid,
    ),
    "prices-invalid": ErrorNote(
        "All problems of the table are listed at once. `kivnun estimate --write-prices FILE` writes the shipped "
        "table, which can then be edited.",
        lambda: load_prices(Path(_write("prices.yaml", "as_of: 2026-11-21\ncurency: USD\n"))),
    ),
    "process-lost": ErrorNote(
        "Of several processes one ended, was killed, or lost its connection; the others cannot go on without it. What "
        "it said last stands above. The same command goes on from the latest checkpoint, with as many processes or "
        "another number."
    ),
    "processes-differ": ErrorNote(
        "Every machine of a training starts from the same recipe, data files, base model, precision and library "
        "versions. Compare them; `pip freeze` lists the libraries."
    ),
    "project-invalid": ErrorNote(
        "A project is named by its id, by its name, or as `ORGANISATION/NAME`.",
        _unknown_project,
    ),
    "prompt-invalid": ErrorNote(
        "Shorten the prompt. It is never cut for you: the model would answer another question than was asked. A "
        "special token, such as `<|endoftext|>`, stands only where the template has it.",
        lambda: require_prompts_fit([[1, 2], []], context_tokens=1024, engine="onnx"),
    ),
    "push-failed": ErrorNote(
        "A push is one commit: the hub has all files or none. A repository that was made by a push that failed stays, "
        "empty; `--update` fills it. The token is read from HF_TOKEN or the hub's own login and never printed.",
        lambda: require_repo_id("my-model"),
    ),
    "ratings-invalid": ErrorNote(
        "A rating holds for the two answers that were shown. Where a model was evaluated again and answers "
        "differently, compare the evaluations that were rated, or keep new ratings in another folder with `--out`.",
        lambda: require_same_answers({"7": "0"}, PairedAnswers(("base", "tuned"), (), ()), "ratings-dana.jsonl"),
    ),
    "recipe-invalid": ErrorNote(
        "All problems of the file are listed at once, each with its line. [The recipe](recipe.md) lists every field.",
        _recipe_invalid,
    ),
    "recipe-missing": ErrorNote(
        "Check the path, or write a first recipe with `kivnun recipe init`.", lambda: load_recipe(Path("tome.yaml"))
    ),
    "rows-differ": ErrorNote(
        "A comparison is paired: both models must have answered the same rows. Evaluate both with the same `--data` or "
        "`--recipe`, and the same template.",
        _rows_differ,
    ),
    "run-folder-taken": ErrorNote(
        "A run writes and removes files in its folder, so it takes only a new one, an empty one, or its own.",
        _run_folder_taken,
    ),
    "run-locked": ErrorNote(
        "The text names the process and the machine. Wait for it, or give another `--run-dir`. The lock goes when its "
        "process ends, however it ends; no file has to be removed."
    ),
    "run-missing": ErrorNote(
        "Name a run by its folder or by its name below `runs/`. If the run was interrupted, give its `kivnun run` "
        "command again.",
        lambda: find_run("tome"),
    ),
    "sampling-invalid": ErrorNote(
        "Temperature 0 always takes the best token; about 0.7 is varied.", lambda: Sampling(temperature=-1)
    ),
    "schema-unsupported": ErrorNote(
        "Answers are held to a schema token by token, for which all of it must be understood: types, properties, "
        "required, items, enum, const, anyOf, $ref within the schema, and bounds of numbers, lengths and patterns. The "
        "text tells the keyword; `not`, `if` and `uniqueItems` are none. A tool without `strict` may have them.",
        _unsupported_schema,
    ),
    "search-differs": ErrorNote(
        "A folder holds one search, since values of different recipes, ranges or rows cannot be compared. Name another "
        "folder with `--out`, or remove the one that stands there.",
        _other_search,
    ),
    "search-failed": ErrorNote(
        "Each trial's reason is listed, and `trials/0001.log` in the folder of the search holds what it said. Ranges "
        "that are too wide, such as learning rates above 0.1, are the usual cause.",
        lambda: require_a_value([Trial(1, {}, {}, "failed", reason="loss-not-finite: the loss of step 3 is nan")]),
    ),
    "search-invalid": ErrorNote(
        "Every end of every range and every choice is tried on the recipe before the first trial; each line names the "
        "field and what is wrong with it.",
        _unknown_searched_field,
    ),
    "serve-unsafe": ErrorNote(
        "Whoever reaches a server without keys can read, change and delete everything. `--no-auth` is for a loopback "
        "address alone; elsewhere `kivnun keys create` makes keys.",
        lambda: require_safe(ServeSettings(Path("data"), host="0.0.0.0", require_keys=False)),  # noqa: S104
    ),
    "server-running": ErrorNote(
        "Each data folder has one server. Its lock goes when its process ends, however it ends; no file has to be "
        "removed. Two servers need two folders."
    ),
    "split-too-small": ErrorNote(
        "Each split that is asked for needs at least one row; with `stratify_by`, so does each value's share. Add "
        "rows, lower the shares, or give numbers of rows instead.",
        lambda: _prepare(_data(*ROWS, split={"validation": 0.1, "test": 0.1})),
    ),
    "stage-unsupported": ErrorNote(
        "The text says which part of the recipe cannot be done, and the hint what to write instead.",
        lambda: score_classification("tuned", ["a"], ["a\nb"], ["a\nb"], seed=0, resamples=100),
    ),
    "store-failed": ErrorNote(
        "The text says what the database answered. A damaged index is made again from its documents with "
        "`kivnun index ... --rebuild`; a server must be reached under the address that was given.",
        lambda: KeptAnswers(Path(_write("answers.sqlite", "no database"))),
    ),
    "target-modules": ErrorNote(
        "Layer names differ between model families. Choose from those in the hint, or write `all-linear`. The names of "
        "`method.modules` and `method.modules_to_save` are checked in the same way.",
        _target_modules,
    ),
    "template-field": ErrorNote(
        "The fields in braces are column names of the data file; the details list the columns that there are.",
        lambda: _prepare(_data(*ROWS, template="Text: {text}\nTone: {tone}")),
    ),
    "test-leaked": ErrorNote(
        "What was trained on is known by heart, so that it tells nothing about new questions. Take the rows out of one "
        "of the two files, or let `data.split` cut them, with `group_by` where several rows come from one document.",
        lambda: freeze_rows(_decide_data("phrase"), near=False),
    ),
    "tls-invalid": ErrorNote(
        "`--tls-certificate` takes the certificate with its chain and `--tls-key` its private key, both PEM and the "
        "key without a password, for nobody is there to type one when a server starts.",
        lambda: require_safe(ServeSettings(Path("data"), tls_certificate=Path("server.pem"))),
    ),
}
