"""How well an index finds what is right: nDCG@10 on Cranfield and XQuAD, with and without vectors.

    python bench/retrieval_quality.py --data ../shared/data

Cranfield: 1,400 abstracts, 225 queries, relevance judgements. XQuAD: 240 paragraphs, 1,190 questions that were written
looking at their paragraph, which flatters words. Both are indexed and searched with the defaults; nothing is chosen
by data set. The builtin embedder is needed (`kivnun fetch minilm`).
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kivnun.evaluation.intervals import mean_estimate
from kivnun.recipe.retrieval import RetrievalSection
from kivnun.retrieval.index import build_index, open_index
from kivnun.retrieval.queries import measure_queries, read_queries
from kivnun.retrieval.search import SearchOptions

ARMS = {"words": ("none", "auto"), "vectors": ("builtin", 1.0), "both (auto)": ("builtin", "auto")}
AIMS = {("cranfield", "words"): 0.38, ("cranfield", "both (auto)"): 0.43, ("xquad_en", "both (auto)"): 0.97}


def prepare_cranfield(data: Path, work: Path) -> tuple[Path, Path, Path]:
    return (
        data / "cranfield" / "corpus.jsonl",
        data / "cranfield" / "queries.jsonl",
        data / "cranfield" / "cranqrel.trec.txt",
    )


def prepare_xquad(data: Path, work: Path) -> tuple[Path, Path, None]:
    rows = [json.loads(line) for line in (data / "xquad_en" / "xquad_en.jsonl").read_text("utf-8").splitlines()]
    paragraphs = {text: str(number) for number, text in enumerate(dict.fromkeys(row["context"] for row in rows))}
    corpus, queries = work / "paragraphs.jsonl", work / "questions.jsonl"
    write_lines(corpus, [{"id": name, "text": text} for text, name in paragraphs.items()])
    asked = [
        {"query": row["question"], "documents": [paragraphs[row["context"]]], "answers": row["answers"]} for row in rows
    ]
    write_lines(queries, asked)
    return corpus, queries, None


def write_lines(path: Path, rows: list[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="Folder of the indexes; kept, so that vectors are computed once.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name, prepare in {"cranfield": prepare_cranfield, "xquad_en": prepare_xquad}.items():
            measure_data(name, *prepare(options.data, work), work)


def measure_data(name: str, corpus: Path, queries: Path, qrels: Path | None, work: Path) -> None:
    read = read_queries(queries, qrels)
    for arm, (embedder, weight) in ARMS.items():
        folder = work / f"{name}-{embedder}"
        report = build_index(
            RetrievalSection(documents=str(corpus), embedder=embedder), folder, log=lambda _event, _fields: None
        )
        with open_index(folder, SearchOptions(dense_weight=weight)) as index:
            measured = measure_queries(index, read, k=10, show=lambda _done: None)
        said = []
        for measure, values in measured.scores.items():
            if values:
                each = mean_estimate(values, seed=0, resamples=2000)
                said.append(f"{measure} {each.value:.4f} [{each.low:.3f}, {each.high:.3f}]")
        aim = AIMS.get((name, arm))
        print(f"{name}, {arm}: {report.documents} documents, {report.chunks} passages, {len(read.queries)} queries")
        print(f"  {'; '.join(said)}{f'; aim nDCG@10 >= {aim}' if aim else ''}", flush=True)
        for note in measured.notes:
            print(f"  note: {note}")


if __name__ == "__main__":
    main()
