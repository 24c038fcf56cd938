"""Every error that a user can fix: a code, the problem with its value, and one hint.

Two kinds of errors exist in Kivnun. `UserError` is printed without a traceback and ends a command with exit status 2;
everything else is our bug and is shown whole. Each code in `CODES` has a section in `docs/reference/errors.md`.
"""

from collections.abc import Sequence

EXIT_STATUS = 2

CODES: dict[str, str] = {
    "adapter-invalid": "An adapter folder does not fit the base model or holds values that are not finite.",
    "adapter-taken": "An adapter is added under a name that another one has.",
    "adapter-unknown": "A request names an adapter that the model does not have.",
    "address-taken": "A server cannot listen at the address and port that it was given.",
    "answer-cut": "A row is longer than `max_seq_len`, so that its answer would be cut away.",
    "answer-failed": "A model failed while it was answering, for a reason that is no client's.",
    "answer-too-long": "Test answers are longer than `evaluation.max_new_tokens`, so that no model could be right.",
    "artifact-damaged": "A file of a finished stage or certified form differs from the hash written when it was made.",
    "azure-credentials": "Nobody is signed in to Azure, so that a job was written and not sent.",
    "azure-failed": "An Azure Machine Learning workspace did not take a job.",
    "azure-invalid": "A `where` section does not fit its recipe, or its environment does not install Kivnun.",
    "constraint-failed": "No token of a model can continue an answer as it must look.",
    "data-check": "The checks that run before training found errors in the data.",
    "data-empty": "A data file holds no rows.",
    "data-encoding": "A data file is not valid UTF-8.",
    "data-field": "A row lacks a field, or the field is null, empty or holds a special token of the model.",
    "data-format": "A data file's format is not one that Kivnun reads.",
    "data-malformed": "A line of a data file cannot be parsed.",
    "data-missing": "A data file does not exist.",
    "database-failed": "The server's database cannot be opened.",
    "database-newer": "The server's database was made by a newer Kivnun.",
    "decide-differs": "A folder of `kivnun decide` holds a comparison of other rows, models or settings.",
    "dependency-missing": "A package is needed that belongs to an extra and is not installed.",
    "disk-full": "The disk filled up while a result was written; nothing half-written is kept.",
    "document-unreadable": "None of the documents that should be indexed can be read.",
    "embedder-missing": "An embedder is not on this machine, or cannot be used.",
    "endpoint-failed": "A model behind an endpoint could not be asked, or refused.",
    "engine-failed": "A program that should compute models did not start, or refused one.",
    "enrich-nothing": "The data has no row that new rows can be made from.",
    "estimate-failed": "The training steps that an estimate is measured with could not be run.",
    "evaluation-invalid": "An evaluation lacks what its task needs, such as references, or names what is not there.",
    "evaluation-label": "The label column that is evaluated differs from the answer that is trained.",
    "export-failed": "The ONNX model could not be built or is incomplete.",
    "file-exists": "A file would be overwritten.",
    "file-unwritable": "A file that a command should write cannot be written where it was asked for.",
    "format-loss": "The format that a file is converted to cannot hold what its rows have.",
    "index-differs": "An index was made with another embedder, or other ways to cut and read text.",
    "index-empty": "An index holds no passage.",
    "index-missing": "An index does not exist, or a file or folder is none.",
    "judge-failed": "A judging model gives no verdicts that can be read.",
    "key-invalid": "An API key does not exist, or cannot be made as asked.",
    "label-unknown": "A validation or test row has a label that no training row has.",
    "limits-unmet": "No form of the model, or no measured strategy, keeps the limits that the recipe sets.",
    "logits-not-finite": "A model produced logits that are NaN or infinite.",
    "loss-not-finite": "The training loss or gradient became NaN or infinite.",
    "memory-full": "Memory ran out while training, or a process of a check was ended early, most likely for that.",
    "messages-invalid": "A row's `messages` do not follow the OpenAI chat format.",
    "metric-invalid": "A metric is unknown, or one of your own is not what a metric must be.",
    "model-invalid": "A model folder lacks a file that is needed, such as its tokenizer.",
    "model-missing": "A model folder does not exist, or a hub id cannot be fetched.",
    "model-too-large": "A model needs more memory than the server may use.",
    "nothing-to-learn": "A row, or the whole data set, has no token to train on.",
    "objective-invalid": "A loss of your own is not installed, or is not what an objective must be.",
    "olive-invalid": "An Olive file or command has a key that is unknown here, has no effect, or lacks what it needs.",
    "other-tool": "A file or a command is that of another program, such as AutoTrain or TRL.",
    "parity-failed": "Two forms of the same model answer differently beyond ties, or further apart than allowed.",
    "preference-invalid": "A row has no second answer to prefer one to, or two that are the same.",
    "prices-invalid": "A price table cannot be read, or has unknown fields or wrong values.",
    "process-lost": "A process of a training that several share ended or cannot be reached.",
    "processes-differ": "The processes that share a training do not have the same recipe, data, model or libraries.",
    "project-invalid": "A project does not exist, or cannot be made as asked.",
    "prompt-invalid": "A prompt is empty, holds a special token, or leaves no room for an answer in the context.",
    "push-failed": "A model could not be sent to the hub, or must not be; nothing half-sent is reported as done.",
    "ratings-invalid": "Ratings belong to other answers, or cannot be read.",
    "recipe-invalid": "A recipe has unknown fields, wrong types or values out of range.",
    "recipe-missing": "The recipe file does not exist.",
    "rows-differ": "Two evaluations are of different rows, so that they cannot be compared row by row.",
    "run-folder-taken": "A folder that exists and is not a run folder would be used as one.",
    "run-locked": "Another process is working in the same run folder.",
    "run-missing": "A run folder does not exist or lacks the stage that a command needs.",
    "sampling-invalid": "A sampling value, such as the temperature, is out of range.",
    "schema-unsupported": "Answers cannot be held to a JSON schema: it is wrong, impossible or unsupported.",
    "search-differs": "A search folder holds trials of another search, or data or base model changed since they ran.",
    "search-failed": "No trial of a search came to its end.",
    "search-invalid": "A search names fields, values or metrics that the recipe does not have.",
    "serve-unsafe": "A server would answer strangers without keys.",
    "server-running": "Another server works in the same data folder.",
    "split-too-small": "There are too few rows for the split that the recipe asks for.",
    "stage-unsupported": "The recipe asks for something that this stage cannot do.",
    "store-failed": "A store of passages cannot be reached, or refused.",
    "target-modules": "The `method` section names a layer, module or weight that the model does not have.",
    "template-field": "A template names a field that the data does not have, or has no field at all.",
    "test-leaked": "Test rows stand in the training rows, so that nothing measured on them would be true.",
    "tls-invalid": "A server's certificate and key are not a pair that can be used.",
}


class UserError(Exception):
    """A problem that the user can fix.

    Args:
        code: One of `CODES`.
        problem: What is wrong, with the value, on one line and without a full stop.
        hint: One action that mends it.
        details: Further lines, such as `file:4: method.rnk: unknown field`.
    """

    def __init__(self, code: str, problem: str, *, hint: str, details: Sequence[str] = ()) -> None:
        if code not in CODES:
            raise AssertionError(f"error code {code!r} is not listed in kivnun.errors.CODES")
        super().__init__(problem)
        self.code = code
        self.problem = problem
        self.hint = hint
        self.details = tuple(details)

    def __str__(self) -> str:
        """The text that the command line prints."""
        lines = [f"error[{self.code}]: {self.problem}", *(f"  {line}" for line in self.details), f"hint: {self.hint}"]
        return "\n".join(lines)
