"""kill -9 at random moments: the same command ends with weights, optimizer and metrics as if nothing had happened.

`bench/resume.py` does it hundreds of times, for every method and objective; here each moment is drawn anew.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "resume.py"


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize(
    "variants", ["lora,full-accumulation", "qlora,full-8bit", "dpo,rslora-metrics", "dora,prefix", "contrastive,ia3"]
)
def test_trainings_killed_at_random_moments_end_as_undisturbed_ones(variants: str) -> None:
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--only", variants, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])["variants"]
    assert set(result) == set(variants.split(","))
    for found in result.values():
        assert found["different"] == []
        assert found["kills"] == 2
