"""A loss of the user's own: the one that the documentation shows is installed and trained with, others are refused."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kivnun.data.packing import pack
from kivnun.data.tokens import TokenTable
from kivnun.errors import UserError
from kivnun.models.attention import use_packed_attention
from kivnun.models.types import Model
from kivnun.recipe.objectives import CustomObjective
from kivnun.recipe.training import TrainingSection
from kivnun.training.loop import fit, make_plan
from kivnun.training.objectives import describe_objective, make_objective
from kivnun.training.objectives.base import Objective
from kivnun.training.objectives.supervised import Supervised
from kivnun.training.optimizer import make_master_weights

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "own-loss.md"

Install = Callable[..., None]


def shown(language: str) -> str:
    """The page's one block of a language."""
    [block] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    return block


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with entry points where Python looks for packages, as `pip install` does."""
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def write(module: str, code: str, *entries: str, package: str = "own-loss") -> None:
        (tmp_path / f"{module}.py").write_text(code, "utf-8")
        about = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", "utf-8")
        (about / "entry_points.txt").write_text("[kivnun.objectives]\n" + "\n".join(entries) + "\n", "utf-8")
        modules.append(module)

    yield write
    for module in modules:
        sys.modules.pop(module, None)


def refused(name: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        make_objective(CustomObjective(kind="custom", name=name, options=options))
    assert caught.value.code == "objective-invalid"
    return str(caught.value)


def test_the_loss_of_the_documentation_is_installed_and_trained_with(
    install: Install, tiny_model: Model, tiny_table: TokenTable
):
    [(name, value)] = re.findall(r'^(\w+) = "(focal_loss:.*)"$', shown("toml"), flags=re.MULTILINE)
    install("focal_loss", shown("python"), f"{name} = {value}")
    assert f"name: {name}," in shown("yaml")
    focal = make_objective(CustomObjective(kind="custom", name=name, options={"gamma": 1.5}))
    assert focal.gamma == 1.5  # type: ignore[attr-defined]
    use_packed_attention(tiny_model)
    plain = make_objective(CustomObjective(kind="custom", name=name, options={"gamma": 0}))
    batch = pack(tiny_table, [0, 1, 2])
    assert gradient_of(plain, tiny_model, batch) == pytest.approx(
        gradient_of(Supervised(), tiny_model, batch), rel=1e-4
    )
    chosen = TrainingSection(max_steps=6, epochs=99, batch_tokens=100, learning_rate=0.01, precision="fp32")
    weights = make_master_weights(tiny_model, chosen)
    plan = make_plan(tiny_table.lengths(), chosen)
    reports = list(fit(tiny_model, weights, tiny_table, chosen, plan=plan, objective=focal))
    assert reports[-1].loss < reports[0].loss
    assert 0 < reports[0].metrics["probability"] < reports[-1].metrics["probability"] < 1
    assert reports[0].to_event()["probability"] == reports[0].metrics["probability"]


def gradient_of(objective: Objective, model: Model, batch) -> list[float]:
    model.zero_grad()
    loss = objective.loss(model, batch, None)
    loss.total.backward()
    return [float(loss.total.detach()), *(float(each.grad.norm()) for each in model.parameters())]


def test_an_unknown_name_is_refused_with_the_known_ones(install: Install):
    assert "none is installed" in refused("focal")
    install("mine", "def make(): ...", "zeta = mine:make", "alpha = mine:make")
    said = refused("focal")
    assert "no entry point 'focal' in the group kivnun.objectives" in said
    assert "known: alpha, zeta" in said


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        (
            "class Loss:\n    def loss(self): ...",
            {},
            "gives Loss, which is no objective: it has no start, count, prepare",
        ),
        ("Loss = 3", {}, "is int, which cannot be called"),
        ("import not_there_at_all", {}, "cannot be imported: ModuleNotFoundError"),
        ("class Loss:\n    def __init__(self, gamma=1): ...", {"gama": 2}, "got an unexpected keyword argument 'gama'"),
        ("class Loss:\n    def __init__(self, gamma=1): ...", {"gama": 2}, "it takes: gamma=1"),
        ("def Loss(gamma):\n    raise ValueError('gamma below 0')", {"gamma": -1}, "ValueError: gamma below 0"),
    ],
)
def test_what_is_no_objective_is_refused_with_what_is_missing(install: Install, code: str, options: dict, words: str):
    install("mine", code, "mine = mine:Loss")
    assert words in refused("mine", **options)


def test_a_name_that_two_packages_have_is_refused(install: Install):
    install("one", "def make(): ...", "mine = one:make", package="pack-one")
    install("two", "def make(): ...", "mine = two:make", package="pack-two")
    said = refused("mine")
    assert "pack-one 1.0" in said
    assert "pack-two 1.0" in said


def test_a_changed_loss_is_another_training(install: Install, tmp_path: Path):
    section = CustomObjective(kind="custom", name="focal")
    install("focal_loss", shown("python"), "focal = focal_loss:FocalLoss")
    before = describe_objective(section)
    assert before["package"] == "own-loss 1.0"
    (tmp_path / "focal_loss.py").write_text(shown("python") + "# changed\n", "utf-8")
    assert describe_objective(section)["source"] != before["source"]
