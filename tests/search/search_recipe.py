"""A recipe that can be searched, the file of the seeds, and the type of the fixture that plans."""

from collections.abc import Callable

from kivnun.search.plan import SearchPlan

RECIPE = """\
base_model: bundled
data: {train: rows.jsonl, text_template: "Text: {phrase}\\nTone: {tone}"}
method: {kind: lora}
"""
SEED_FILE = """\
search_strategy:
  type: "random"
  num_trials: 20

search_space:
  learning_rate:
    type: "float"
    low: 1e-6
    high: 1e-3
    log: true

  lora_r:
    type: "int"
    low: 8
    high: 64

  batch_size:
    type: "choice"
    values: [8, 16, 32]
"""
MakePlan = Callable[..., SearchPlan]
