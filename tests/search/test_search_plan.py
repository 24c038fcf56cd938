"""What a search accepts before its first trial, and what it refuses, with the words."""

from pathlib import Path

import pytest
from search_recipe import SEED_FILE, MakePlan

from kivnun.errors import UserError
from kivnun.search.plan import base_value, with_values
from kivnun.search.space_file import load_search

RATE = "training.learning_rate: {type: float, low: 1e-5, high: 1e-2, log: true}"


def refused(make_plan: MakePlan, search: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(search, *overrides)
    assert caught.value.code in {"search-invalid", "recipe-invalid"}
    return str(caught.value)


def test_the_file_of_the_seeds_works_as_it_stands(make_plan: MakePlan, tmp_path: Path) -> None:
    path = tmp_path / "hyperparameter-search.yaml"
    path.write_text(SEED_FILE, "utf-8")
    plan = make_plan("", space=path)
    assert list(plan.space) == ["training.learning_rate", "method.rank", "training.batch_size"]
    assert (plan.settings.sampler, plan.num_trials, plan.metric) == ("random", 20, "loss")
    assert plan.space["training.learning_rate"].log
    assert plan.space["training.batch_size"].values == (8, 16, 32)


def test_a_file_of_ranges_stands_in_place_of_the_recipes_and_options_in_place_of_both(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SEED_FILE, "utf-8")
    plan = make_plan(f"{{space: {{{RATE}}}, seed: 7}}", "search.workers=2", space=path, trials=3)
    assert "method.rank" in plan.space
    assert (plan.settings.seed, plan.settings.workers, plan.num_trials) == (7, 2, 3)


def test_overrides_of_the_search_hold_for_a_file_where_the_recipe_has_no_search(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(SEED_FILE, "utf-8")
    loaded = load_search(recipe, ["search.seed=3", "training.epochs=1"], space=path)
    assert loaded.recipe.search is not None
    assert (loaded.recipe.search.seed, loaded.recipe.training.epochs) == (3, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("learning_rat", "did you mean `training.learning_rate`?"),
        ("lora_rr", "did you mean `method.rank`?"),
        ("training.epoch", "did you mean `training.epochs`?"),
        ("training", "is a group of fields"),
        ("data.max_seq_len", "must be the same for all trials"),
        ("evaluation.max_new_tokens", "never evaluates on the test rows"),
        ("training.best_metric", "says how trials are measured"),
        ("training.keep_checkpoints", "not what is learnt"),
        ("training.objective.beta", "losses cannot be compared"),
        ("base_model", "losses over different tokens cannot be compared"),
        ("method.bottleneck_size", "kind lora does not have it"),
    ],
)
def test_a_field_that_cannot_be_searched_is_refused_with_its_reason(make_plan: MakePlan, name: str, words: str) -> None:
    assert words in refused(make_plan, f"{{space: {{{name}: {{type: int, low: 1, high: 4}}}}}}")


def test_every_end_and_every_choice_is_tried_on_the_schema_before_the_first_trial(make_plan: MakePlan) -> None:
    said = refused(
        make_plan,
        "{space: {lora_r: {type: int, low: 0, high: 8}, training.schedule: {type: choice, values: [linear, wds]}, "
        "dropout: {type: float, low: 0.0, high: 1.0}}}",
    )
    assert "method.rank = 0: input should be greater than 0" in said
    assert "training.schedule = wds: input should be" in said
    assert "method.dropout = 1.0: input should be less than 1" in said


def test_a_value_that_fits_beside_another_searched_one_is_accepted(make_plan: MakePlan) -> None:
    decay = "training.decay_ratio: {type: float, low: 0.1, high: 0.4}"
    schedule = "training.schedule: {type: choice, values: [cosine, wsd]}"
    assert make_plan(f"{{space: {{{decay}, {schedule}}}}}").space
    assert "it belongs to wsd" in refused(make_plan, f"{{space: {{{decay}, {RATE}}}}}")


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("{space: {}}", "at least 1 item"),
        (f"{{space: {{{RATE}}}, num_trials: 0}}", "greater than 0"),
        ("{space: {lora_r: {type: choice, values: [8, 8]}}}", "holds a value twice"),
        ("{space: {epochs: {type: choice, values: [1, 1.0]}}}", "holds a value twice"),
        ("{space: {lora_r: {type: choice, values: [8]}}}", "holds one value"),
        ("{space: {lora_r: {type: int, low: 8, high: 8}}}", "is not above low"),
        ("{space: {lora_r: {type: int, low: 8, high: 64, step: 10}}}", "the last value is 58"),
        ("{space: {lora_r: {type: int, low: 8, high: 9}, rank: {type: int, low: 8, high: 9}}}", "keep one"),
        (f"{{space: {{{RATE}}}, pruner: none, prune_after: 2}}", "has no effect on the pruner none"),
        (f"{{space: {{{RATE}}}, metric: rouge_l}}", "add it to training.validation_metrics"),
        (f"{{space: {{{RATE}}}, metric: recall_at_1}}", "belongs to the objectives contrastive"),
    ],
)
def test_a_search_that_could_not_work_is_refused(make_plan: MakePlan, search: str, words: str) -> None:
    assert words in refused(make_plan, search)


def test_a_search_needs_validation_rows_and_one_metric(make_plan: MakePlan) -> None:
    search = f"{{space: {{{RATE}}}, metric: loss}}"
    assert "compared on validation rows" in refused(make_plan, search, "data.split.validation=0")
    measured = ("training.validation_metrics=[accuracy]", "training.best_metric=accuracy")
    assert "differs from training.best_metric" in refused(make_plan, search, *measured)


def test_without_a_metric_the_one_that_training_keeps_is_searched(make_plan: MakePlan) -> None:
    measured = ("training.validation_metrics=[accuracy]", "training.best_metric=accuracy")
    plan = make_plan(f"{{space: {{{RATE}}}}}", *measured)
    assert (plan.metric, plan.higher_is_better) == ("accuracy", True)
    assert not make_plan(f"{{space: {{{RATE}}}}}").higher_is_better


def test_a_trial_is_the_recipe_with_its_values_and_without_evaluation_export_and_search(make_plan: MakePlan) -> None:
    more = ("evaluation={task: generation}", "optimization={precision: fp32}", "training.validation_metrics=[accuracy]")
    plan = make_plan(f"{{space: {{{RATE}, lora_r: {{type: int, low: 2, high: 8}}}}, metric: accuracy}}", *more)
    trial = with_values(base_value(plan.loaded.recipe, plan), {"training.learning_rate": 0.003, "method.rank": 4})
    assert (trial.evaluation, trial.optimization, trial.search) == (None, None, None)
    assert (trial.training.learning_rate, trial.method.rank, trial.training.best_metric) == (0.003, 4, "accuracy")


def test_a_searched_batch_size_stands_in_place_of_the_recipes_batch_tokens_aloud(make_plan: MakePlan) -> None:
    plan = make_plan("{space: {batch_size: {type: choice, values: [8, 16]}}}", "training.batch_tokens=512")
    assert plan.notes == (
        "training.batch_tokens = 512 is left out, since training.batch_size is searched in its place",
    )
    assert with_values(base_value(plan.loaded.recipe, plan), {"training.batch_size": 8}).training.batch_size == 8


def test_a_space_with_fewer_combinations_than_trials_is_tried_whole(make_plan: MakePlan) -> None:
    space = "{lora_r: {type: int, low: 4, high: 16, step: 4}, use_dora: {type: choice, values: [false, true]}}"
    small, large = make_plan(f"{{space: {space}, num_trials: 9}}"), make_plan(f"{{space: {space}, num_trials: 7}}")
    assert (small.num_combinations, small.num_trials, small.tries_all) == (8, 8, True)
    assert (large.num_trials, large.tries_all) == (7, False)
    assert make_plan(f"{{space: {{{RATE}}}}}").num_combinations is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("search_spac: {}", "did you mean `search_space`?"),
        ("[1, 2]", "should hold search_space"),
        ("search_strategy: {type: grid}\nsearch_space: {lora_r: {type: int, low: 1, high: 2}}", "'tpe' or 'random'"),
        ("search_space: {lora_r: {type: int, low: 1}}", "search.space.lora_r.high: this field is required"),
        ("search_space: {", "space.yaml:1"),
    ],
)
def test_a_file_of_ranges_that_cannot_be_read_is_refused(
    make_plan: MakePlan, tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError) as caught:
        make_plan("", space=path)
    assert caught.value.code == "search-invalid"
    assert words in str(caught.value)
