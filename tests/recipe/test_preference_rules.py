"""What a recipe cannot ask of an objective that learns from judgements."""

import pytest
from pydantic import ValidationError

from kivnun.recipe.schema import Recipe


def refused(training: dict[str, object], **data: object) -> str:
    section = {"train": "rows.jsonl", **data}
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"base_model": "bundled", "data": section, "training": training})
    return str(caught.value)


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
@pytest.mark.parametrize("data", [{"text_template": "{a}\n{b}"}, {"messages": "talk"}], ids=["template", "messages"])
def test_a_template_has_no_place_for_a_judgement(kind: str, data: dict[str, object]) -> None:
    assert f"which the objective {kind} learns from; leave it out" in refused({"objective": kind}, **data)


@pytest.mark.parametrize("kind", ["supervised", "kto"])
def test_pairs_in_order_are_counted_where_there_are_pairs(kind: str) -> None:
    said = refused({"objective": kind, "best_metric": "reward_accuracy"})
    assert f"reward_accuracy belongs to the objectives dpo and orpo, not {kind}" in said
