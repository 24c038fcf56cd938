"""Write rows that teach a small model to read: passages of invented facts, a question, and the answer that is there.

    python examples/reader/make_rows.py --out /tmp/reader

Names and answers are made of random syllables, digits and words, and no fact is ever true, so that nothing can be
learnt by heart. The words are those of the rows in `examples/tone`. Seeds are fixed: the rows are always the same.
"""

import argparse
import json
import random
import re
from pathlib import Path

PHRASES = Path(__file__).parent.parent / "tone" / "phrases.jsonl"
SIZES = {"train": 14_000, "validation": 300, "test": 600}

CONSONANTS = {
    "en": ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "th", "sh", "ch", "br", "tr"],
    "he": list("בגדהזחטיכלמנסעפצקרשת"),
}
VOWELS = {"en": ["a", "e", "i", "o", "u", "ai", "or", "en"], "he": ["", "ו", "י", "א"]}
RELATIONS = {
    "en": [
        "word",
        "code",
        "capital",
        "colour",
        "owner",
        "price",
        "author",
        "river",
        "teacher",
        "city",
        "number",
        "captain",
        "name",
        "door",
        "song",
        "key",
        "mother",
        "street",
        "animal",
        "tool",
        "month",
        "language",
        "coin",
    ],
    "he": ["מילה", "קוד", "בירה", "צבע", "מחיר", "מספר", "שם", "עיר", "רחוב", "שיר", "מפתח", "בעל", "מורה", "נהר"],
}
STATEMENTS = {
    "en": ("The {relation} of {name} is {value}.", "{name} has the {relation} {value}.", "{name}: {relation} {value}."),
    "he": ("ה{relation} של {name} הוא {value}.", "{name}: {relation} {value}."),
}
QUESTIONS = {
    "en": (
        "The {relation} of {name} is",
        "Question: What is the {relation} of {name}?\nAnswer:",
        "{name}: {relation}",
    ),
    "he": ("ה{relation} של {name} הוא", "שאלה: מה ה{relation} של {name}?\nתשובה:"),
}


def make_name(draw: random.Random, language: str) -> str:
    """An invented name of two or three syllables."""
    parts = [draw.choice(CONSONANTS[language]) + draw.choice(VOWELS[language]) for _ in range(draw.choice((2, 2, 3)))]
    return "".join(parts).capitalize()


def make_value(draw: random.Random, language: str, words: list[str]) -> str:
    """An answer: a word, an invented name, a number, or two of these."""
    kinds = [lambda: draw.choice(words), lambda: make_name(draw, language), lambda: str(draw.randrange(10, 10_000))]
    first = draw.choice(kinds)()
    return first if draw.random() < 0.8 else f"{first} {draw.choice(kinds)()}"


def make_row(draw: random.Random, words: dict[str, list[str]]) -> dict[str, str]:
    """One row: one to four passages, one of them with the answer."""
    language = "he" if draw.random() < 0.3 else "en"
    count = draw.choice((1, 2, 3, 3, 4))
    same_relation = draw.random() < 0.6
    relation = draw.choice(RELATIONS[language])
    names: list[str] = []
    while len(names) < count:
        name = make_name(draw, language)
        if name not in names:
            names.append(name)
    relations = [relation if same_relation else draw.choice(RELATIONS[language]) for _ in names]
    values = [make_value(draw, language, words[language]) for _ in names]
    statement, question = draw.choice(STATEMENTS[language]), draw.choice(QUESTIONS[language])
    facts = zip(names, relations, values, strict=True)
    passages = [statement.format(name=n, relation=r, value=v) for n, r, v in facts]
    marked = draw.random() < 0.5
    shown = "".join(f"[{i}] {text}\n" if marked else f"{text}\n" for i, text in enumerate(passages, start=1))
    asked = draw.randrange(count)
    prompt = question.format(name=names[asked], relation=relations[asked])
    between = "\n" if draw.random() < 0.7 else ""
    return {"prompt": shown + between + prompt, "answer": f" {values[asked]}", "language": language}


def main() -> None:
    """Write one file for each split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    text = " ".join(json.loads(line)["phrase"] for line in PHRASES.read_text("utf-8").splitlines())
    words = {
        "en": sorted({word.lower() for word in re.findall(r"\b[A-Za-z]{3,9}\b", text)}),
        "he": sorted(set(re.findall(r"\b[א-ת]{2,8}\b", text))),
    }
    for number, (split, size) in enumerate(SIZES.items()):
        draw = random.Random(number)
        # Every eighth word is kept for the test rows: an answer that was never seen in training.
        known = {
            language: [word for i, word in enumerate(each) if (i % 8 == 0) == (split == "test")]
            for language, each in words.items()
        }
        rows = [make_row(draw, known) for _ in range(size)]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        print(f"{folder / f'{split}.jsonl'}: {size} rows")


if __name__ == "__main__":
    main()
