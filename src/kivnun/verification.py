"""A shipped model asked its golden prompts again, on any machine or behind an endpoint, and held to its certificate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from kivnun.data.encode import Encoder
from kivnun.errors import UserError
from kivnun.evaluation.scoring import mean_score
from kivnun.generation.agreement import ParityRow
from kivnun.generation.endpoint import find_server, open_endpoint
from kivnun.generation.engine import Generation
from kivnun.models.load import load_tokenizer
from kivnun.optimization.bench import BuiltForm, broken_bounds, make_row, time_engine
from kivnun.optimization.certificate import (
    PARITY_NAME,
    Certificate,
    Thresholds,
    read_certificate,
    require_whole,
)
from kivnun.optimization.engines import cannot_run, is_form, open_form, why_not_here
from kivnun.optimization.golden import GOLDEN_NAME, Golden, read_golden
from kivnun.optimization.measure import SPEED_PROMPTS
from kivnun.optimization.reference import Check, Reference, check_form, read_reference
from kivnun.optimization.served import Served, check_served, whole_text
from kivnun.runs import find_run, read_manifest, verify_artifact
from kivnun.runs.manifest import MANIFEST_NAME

Show = Callable[[str, int, int], None]
"""Progress: the form that is asked, questions answered, all questions."""
Scorer = Callable[[Sequence[Generation]], float | None]

COUNT_TOLERANCE = 0.02
"""Share of answers or tokens that another processor may round otherwise than the one that the certificate is from."""
DIVERGENCE_FACTOR, DIVERGENCE_SLACK = 1.25, 1e-3
"""So many times the certified divergence, and so many nats more, are still the same model."""
UNSEEN_AGREEMENT = 0.8
"""Least token agreement of a form that no machine has run before, where the recipe sets no bound."""


def quiet(_name: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class FormReport:
    """One form, verified.

    Attributes:
        folder: Its folder.
        recorded: Its row in the certificate.
        here: The same, measured now; None where this machine cannot run it.
        problems: What is worse than certified, with figures; empty for a form that passed.
        differences: Where the first answers part from the tuned model's.
    """

    folder: Path
    recorded: ParityRow
    here: ParityRow | None
    problems: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Passed, failed, or not run here."""
        if self.here is None:
            return "not run here"
        return "failed" if self.problems else "passed"


@dataclass(frozen=True)
class VerifyReport:
    """What `kivnun verify` found.

    Attributes:
        folder: What was verified.
        certificate: What it was held to.
        forms: Every form in it.
        served: Who was asked and how, where a server was.
    """

    folder: Path
    certificate: Certificate
    forms: Sequence[FormReport]
    served: str | None = None

    @property
    def failed(self) -> list[FormReport]:
        """The forms that are not what was certified."""
        return [form for form in self.forms if form.problems]

    @property
    def verdict(self) -> str:
        """The verdict on all forms together; what was not asked is no part of what passed."""
        unchecked = [form.recorded.name for form in self.forms if form.here is None]
        passed = f"passed; not run here: {', '.join(unchecked)}" if unchecked else "passed"
        return "failed" if self.failed else passed

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "folder": str(self.folder),
            "verdict": self.verdict,
            "certified": self.certificate.created,
            "golden": self.certificate.golden,
            "golden_fixed_at": self.certificate.fixed_at,
            "served": self.served,
            "forms": [{**asdict(form), "folder": str(form.folder), "verdict": form.verdict} for form in self.forms],
        }

    def require_passed(self) -> None:
        """Refuse a model that is not the one that was certified.

        Raises:
            UserError: `parity-failed`, with every figure that is worse and where the first answers part.
        """
        if self.failed:
            names = ", ".join(form.recorded.name for form in self.failed)
            lines = [f"{form.recorded.name}: {problem}" for form in self.failed for problem in form.problems]
            raise UserError(
                "parity-failed",
                f"{names} in {self.folder} does not answer as certified" + (f": {self.served}" if self.served else ""),
                details=[*lines, *(line for form in self.failed for line in form.differences)],
                hint="serve the folder that was certified, with the libraries that its parity.json names",
            )


@dataclass(frozen=True)
class Asked:
    """What a form is held to: prompts, the tuned model's answers, and the certificate."""

    golden: Golden
    reference: Reference
    certificate: Certificate


def score_by(golden: Golden, encoder: Encoder) -> Scorer:
    """How answers to golden prompts are scored: by the task's main metric, or None where the recipe evaluates nothing.

    Programs are compared with the right one and not run, and a row's further right answers are not known here.

    Args:
        golden: The prompts with their right answers.
        encoder: The model's tokenizer.
    """
    return lambda answers: score_texts(golden, [encoder.decode(answer.token_ids) for answer in answers])


def score_texts(golden: Golden, texts: Sequence[str]) -> float | None:
    """The mean of the task's main metric, or None where the recipe evaluates nothing."""
    if golden.task is None:
        return None
    expected = [prompt.answer or "" for prompt in golden.prompts]
    return mean_score(golden.task, texts, expected)


def verify(
    name: str, *, num_threads: int | None = None, show: Show = lambda _name, _done, _total: None
) -> VerifyReport:
    """Verify a run's forms, those of an `optimized/` folder, or one form's folder.

    Args:
        name: The folder, or a run's name.
        num_threads: Cores that may be used; None for all.
        show: Takes the progress.

    Raises:
        UserError: `artifact-damaged` where a file is not the one that was certified; `run-missing` where there is no
            certificate; `stage-unsupported` where this machine can run none of the forms.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    folder, certificate, forms = find_certified(name)
    for form, place in forms.items():
        require_whole(place, certificate, form)
    asked = Asked(read_asked(folder), read_reference(folder), certificate)
    if all(why_not_here(place, certificate.row(form).target) for form, place in forms.items()):
        first = certificate.row(next(iter(forms)))
        raise cannot_run(first.name, forms[str(first.folder)], first.target)
    reports = [_verify_form(place, certificate.row(form), asked, num_threads, show) for form, place in forms.items()]
    return VerifyReport(folder, certificate, reports)


def verify_endpoint(
    name: str, base_url: str, model: str, *, key_variable: str = "OPENAI_API_KEY", show: Show = quiet
) -> VerifyReport:
    """Hold a served model to a certificate.

    Args:
        name: As for `verify`; of several forms the shipped one is what the server is held to.
        base_url: An OpenAI-compatible address, up to and with `/v1`, that offers text completions.
        model: The model's name there.
        key_variable: Environment variable that holds the key.
        show: Takes the progress.

    Raises:
        UserError: `endpoint-failed`; as for `verify`.
    """
    folder, certificate, forms = find_certified(name)
    form = certificate.this or certificate.shipped
    place, recorded = forms[form], certificate.row(form)
    asked = Asked(read_asked(place), read_reference(place), certificate)
    encoder = Encoder(load_tokenizer(place))
    first = asked.golden.token_ids[0]
    endpoint = open_endpoint(base_url, key_variable=key_variable)
    served = Served(find_server(endpoint, model, first, whole_text(encoder, first)), encoder)
    told = check_served(
        served,
        asked.golden,
        asked.reference,
        tie_tolerance=certificate.thresholds.tie_tolerance,
        tick=lambda done, total: show(model, done, total),
    )
    row = make_row(
        BuiltForm(recorded.name, recorded.precision, place), told.check, score_texts(asked.golden, told.texts)
    )
    here = replace(
        row,
        name=model,
        size_bytes=0,
        folder=None,
        tokens_per_second=told.tokens_per_second,
        first_token_ms=told.first_token_ms,
    )
    report = report_form(place, recorded, here, told.check, asked)
    return VerifyReport(folder, certificate, [report], served.describe())


def find_certified(name: str) -> tuple[Path, Certificate, dict[str, Path]]:
    """The folder that holds a certificate, the certificate, and where each of the forms lies that it is about.

    Args:
        name: A run's name or folder, an `optimized/` folder, or the folder of one form.

    Raises:
        UserError: `run-missing` or `artifact-damaged`.
    """
    folder = Path(name)
    if not (folder / PARITY_NAME).is_file() and not is_form(folder):
        folder = folder if (folder / "optimized").is_dir() else find_run(name)
        folder = folder / "optimized"
    certificate = read_certificate(folder)
    if certificate.this is not None:
        return folder, certificate, {certificate.this: folder}
    if (folder / MANIFEST_NAME).is_file():
        verify_artifact(folder)
    _require_fixed_before(folder, certificate)
    return folder, certificate, {form: folder / form for form in certificate.files}


def read_asked(folder: Path) -> Golden:
    """The golden prompts of a certified folder.

    Raises:
        UserError: `artifact-damaged`.
    """
    golden = read_golden(folder)
    if golden is None:
        raise UserError(
            "artifact-damaged",
            f"{folder / GOLDEN_NAME} is missing",
            hint="copy the folder again from where it was made, or run the recipe again",
        )
    return golden


def _require_fixed_before(folder: Path, certificate: Certificate) -> None:
    """In a run, the golden prompts must be those that lay in `model/` before any form was made."""
    model = folder.parent / "model"
    if certificate.fixed_at != "training" or not (model / MANIFEST_NAME).is_file():
        return
    record = read_manifest(model).files.get(GOLDEN_NAME)
    if record is None or record.sha256 != certificate.golden:
        raise UserError(
            "artifact-damaged",
            f"{folder / GOLDEN_NAME} is not the file that was fixed when the training of {model} ended",
            hint="give the `kivnun run` command again to make the forms anew",
        )


def _verify_form(folder: Path, recorded: ParityRow, asked: Asked, num_threads: int | None, show: Show) -> FormReport:
    if why_not_here(folder, recorded.target) is not None:
        return FormReport(folder, recorded, None)
    engine = open_form(folder, name=recorded.name, num_threads=num_threads)
    check = check_form(
        engine,
        asked.golden,
        asked.reference,
        tie_tolerance=asked.certificate.thresholds.tie_tolerance,
        tick=lambda done, total: show(recorded.name, done, total),
    )
    score = score_by(asked.golden, Encoder(load_tokenizer(folder)))(check.answers)
    form = BuiltForm(recorded.name, recorded.precision, folder, recorded.target)
    here = make_row(form, check, score)
    if not any(folder.glob("*.gguf")):
        here = time_engine(here, engine, asked.golden.token_ids[:SPEED_PROMPTS])
    return report_form(folder, recorded, here, check, asked)


def report_form(folder: Path, recorded: ParityRow, here: ParityRow, check: Check, asked: Asked) -> FormReport:
    """What was measured now beside what was certified.

    Args:
        folder: The form's folder.
        recorded: Its row in the certificate.
        here: Its row now.
        check: How it answered now.
        asked: What it is held to.
    """
    problems = tuple(find_problems(recorded, here, asked))
    differences = [str(each) for each in check.agreement.first_differences] if problems else []
    return FormReport(folder, recorded, here, problems, tuple(differences))


def find_problems(recorded: ParityRow, here: ParityRow, asked: Asked) -> list[str]:
    """In what a form is worse than certified, beyond what another processor's rounding explains.

    Args:
        recorded: Its row in the certificate.
        here: Its row now.
        asked: The thresholds, and how many tokens were compared.
    """
    if BuiltForm(recorded.name, recorded.precision, Path()).is_exact:
        text = f"{here.different} of {here.num_prompts} answers differ from the tuned model's beyond ties"
        return [text] if here.different else []
    limits = asked.certificate.thresholds
    problems = broken_bounds(here, limits.min_agreement, limits.max_divergence)
    if recorded.verdict == "not run here":
        return problems + _find_unseen_problems(here, limits)
    lost = _allowed(recorded.num_prompts)
    least = (recorded.identical + recorded.ties) / recorded.num_prompts - lost
    share = (here.identical + here.ties) / here.num_prompts
    problems += _if_less("answers that are the same or tie", share, least, "certified with its tolerance")
    if recorded.token_agreement is not None:
        least = recorded.token_agreement - _allowed(asked.reference.num_tokens)
        problems += _if_less("token agreement", here.token_agreement, least, "certified with its tolerance")
    return problems + _drifted_further(recorded.divergence, here.divergence)


def _find_unseen_problems(here: ParityRow, limits: Thresholds) -> list[str]:
    """Of a form that has no certified figures: what keeps no bound of the recipe must keep a general one."""
    if limits.min_agreement is not None or (limits.max_divergence is not None and here.divergence is not None):
        return []
    if here.token_agreement is None:
        return ["token agreement: it was never measured before, and this server cannot be led along an answer"]
    return _if_less("token agreement", here.token_agreement, UNSEEN_AGREEMENT, "never measured before")


def _drifted_further(recorded: float | None, here: float | None) -> list[str]:
    if recorded is None or here is None or here <= DIVERGENCE_FACTOR * recorded + DIVERGENCE_SLACK:
        return []
    return [f"divergence {here:.4g} nats, certified {recorded:.4g}"]


def _allowed(count: int) -> float:
    """The share of `count` things that may differ between machines: 2 %, but always one of them."""
    return max(1, math.ceil(COUNT_TOLERANCE * count)) / count


def _if_less(what: str, value: float | None, least: float, why: str) -> list[str]:
    return [f"{what}: {value:.1%}, at least {least:.1%} ({why})"] if value is not None and value < least - 1e-9 else []
