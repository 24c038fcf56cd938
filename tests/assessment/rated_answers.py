"""Two evaluations as they lie on the disk, with Hebrew and English, and some rows answered alike."""

import json
from pathlib import Path

SAME_EVERY = 5


def write_evaluation(folder: Path, answers: list[str], *, references: bool = True) -> Path:
    """A folder as `kivnun evaluate` leaves it, as far as these verbs read it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "row_id": f"r{number}",
            "where": f"test.jsonl:{number + 1}",
            "prompt": f"שאלה {number}: what is it?",
            "references": [f"right {number}"] if references else [],
            "answer": answer,
            "exact_match": 0.0,
        }
        for number, answer in enumerate(answers)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def write_two(work: Path, number: int = 20) -> tuple[Path, Path]:
    """`plain` and `tuned`, which answer every fifth row alike."""
    plain = [f"plain {row}" if row % SAME_EVERY else "alike" for row in range(number)]
    tuned = [f"תשובה {row}, tuned" if row % SAME_EVERY else "alike " for row in range(number)]
    return write_evaluation(work / "plain", plain), write_evaluation(work / "tuned", tuned)
