"""Tune a model from Python and read the numbers: `python examples/run_recipe.py [RECIPE] [--set field=value ...]`.

The same call again goes on where an interrupted run stopped, and repeats nothing that is finished.
"""

import sys
from pathlib import Path

from kivnun.pipeline import run_recipe
from kivnun.recipe import load_recipe
from kivnun.runs import default_run_dir, open_run


def main() -> None:
    """Run one recipe and print its scores and its parity table."""
    words = [word for word in sys.argv[1:] if word != "--set"]
    recipe = Path(words[0] if words else "recipes/tone.yaml")
    with open_run(default_run_dir(recipe)) as run:
        results = run_recipe(load_recipe(recipe, words[1:]), run, show=lambda event, _fields: print(event, end=" "))
    print()
    for scores in results.evaluation.scores if results.evaluation else ():
        for metric, estimate in scores.metrics.items():
            print(f"{scores.name:30} {metric:12} {estimate.value:8.3f}  ({estimate.low:.3f} to {estimate.high:.3f})")
    for row in results.parity:
        print(f"{row.name:10} {row.size_bytes / 1e6:8.1f} MB  {row.identical}/{row.num_prompts} answers identical")
    print(results.report)


if __name__ == "__main__":
    main()
