"""The search of an index: passages with where they stand, answers with citations, and measured quality."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from kivnun.asking.grounded import GroundedAnswer
    from kivnun.evaluation.results import Estimate
    from kivnun.retrieval.index import Index
    from kivnun.retrieval.passages import Hit, MetadataValue
    from kivnun.retrieval.search import SearchResult

LONGEST_PASSAGE = 400
RESAMPLES = 1000


@dataclass(frozen=True)
class PassageSearch:
    """What was asked for on the command line."""

    folder: Path
    k: int
    filters: tuple[str, ...]
    dense_weight: float | None
    reranker: str | None
    store: str | None
    min_score: float | None
    max_new_tokens: int


def search_passages(asked: PassageSearch, query: str, *, answer: str | None, as_json: bool) -> None:
    """Print the passages for a query, or a model's answer from them."""
    from kivnun.cli.output import tell, to_json

    with _open(asked) as index:
        if answer is not None:
            _answer(asked, index, query, answer, as_json=as_json)
            return
        found = index.search(query, asked.k)
    if as_json:
        sys.stdout.write(to_json(_result_json(query, found)))
        return
    for note in found.notes:
        tell(f"note: {note}")
    _print_hits(found.hits)


def measure_index(asked: PassageSearch, queries: Path, qrels: Path | None, *, k: int | None, as_json: bool) -> None:
    """Print recall, MRR, nDCG and the share of answerable queries, with intervals."""
    from kivnun.cli.output import tell, to_json
    from kivnun.cli.row_progress import RowProgress
    from kivnun.evaluation.intervals import mean_estimate
    from kivnun.retrieval.queries import measure_queries, read_queries

    read = read_queries(queries, qrels)
    depth = k or 10
    with _open(asked) as index, RowProgress(sys.stderr, "searching", unit="queries") as progress:
        measured = measure_queries(
            index, read, k=depth, show=lambda done: progress.show(done, done / max(len(read.queries), 1))
        )
    estimates = {
        name: mean_estimate(values, seed=0, resamples=RESAMPLES) for name, values in measured.scores.items() if values
    }
    if as_json:
        fields: dict[str, object] = {name: each.to_json() for name, each in estimates.items()}
        told = {"queries": len(read.queries), "counts": measured.counts, "notes": list(measured.notes)}
        sys.stdout.write(to_json({**told, "metrics": fields}))
        return
    for note in measured.notes:
        tell(f"note: {note}")
    _print_measures(estimates, measured.counts, len(read.queries))


def read_filters(given: tuple[str, ...]) -> "Mapping[str, MetadataValue]":
    """`--filter year=2024` as a value: numbers, true and false as such, all else, and what is quoted, as text."""
    import json

    filters: dict[str, MetadataValue] = {}
    for each in given:
        name, sign, text = each.partition("=")
        if not sign or not name or name in filters:
            raise typer.BadParameter(f"--filter {each}: write NAME=VALUE, each name once")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        filters[name] = value if isinstance(value, str | int | float | bool) else text
    return filters


def _open(asked: PassageSearch) -> "Index":
    from kivnun.retrieval.index import open_index
    from kivnun.retrieval.search import SearchOptions

    weight = "auto" if asked.dense_weight is None else asked.dense_weight
    options = SearchOptions(weight, read_filters(asked.filters), asked.reranker)
    return open_index(asked.folder, options, store=asked.store)


def _answer(asked: PassageSearch, index: "Index", query: str, answer: str, *, as_json: bool) -> None:
    from kivnun.asking.grounded import Grounding, answer_grounded
    from kivnun.asking.open import open_model
    from kivnun.cli.output import to_json

    model = open_model(answer)
    grounding = Grounding(k=asked.k, min_score=asked.min_score, max_new_tokens=asked.max_new_tokens)
    given = answer_grounded(model, index, query, grounding)
    if as_json:
        sys.stdout.write(to_json({"query": query, "model": model.name, **given.to_json()}))
    else:
        _print_answer(given, model.name)


def _result_json(query: str, found: "SearchResult") -> dict[str, object]:
    hits = [{**asdict(hit), "chunk": {"id": hit.chunk.id, **asdict(hit.chunk)}} for hit in found.hits]
    return {"query": query, "hits": hits, "evidence": found.evidence, "notes": list(found.notes)}


def _print_hits(hits: "tuple[Hit, ...]") -> None:
    for number, hit in enumerate(hits, start=1):
        parts = [f"score {hit.score:.3f}"]
        parts += [f"cosine {hit.dense:.3f}"] if hit.dense is not None else []
        parts += [f"words {hit.lexical:.2f}"] if hit.lexical is not None else []
        _say(f"[{number}] {_say_place(hit)}  ({', '.join(parts)})")
        text = " ".join(hit.chunk.text.split())
        _say(f"    {text[:LONGEST_PASSAGE]}{' ...' if len(text) > LONGEST_PASSAGE else ''}")
    if not hits:
        _say("no passage found")


def _say_place(hit: "Hit") -> str:
    chunk = hit.chunk
    heading = f"  {chunk.heading}" if chunk.heading else ""
    return f"{chunk.document}:{chunk.start}-{chunk.end}{heading}"


def _print_answer(given: "GroundedAnswer", name: str) -> None:
    from kivnun.cli.output import tell

    for note in given.notes:
        tell(f"note: {note}")
    _say(given.text)
    for each in given.citations:
        heading = f"  {each.heading}" if each.heading else ""
        _say(f"  [{each.number}] {each.document}:{each.start}-{each.end}{heading}")
    if given.abstained:
        _say(f"{name} did not answer" if given.reply is not None else "no model was asked")
    elif given.lexical_support is not None:
        _say(f"lexical support {given.lexical_support:.0%}: words of the answer that stand in the passages")


def _print_measures(estimates: "Mapping[str, Estimate]", counts: Mapping[str, int], num_queries: int) -> None:
    from rich.table import Table

    from kivnun.cli.output import open_console

    table = Table(title=f"{num_queries:,} queries, 95 % intervals", title_justify="left")
    for name in ("measure", "mean", "interval", "queries"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for name, each in estimates.items():
        table.add_row(name, f"{each.value:.3f}", f"{each.low:.3f} to {each.high:.3f}", str(counts[name]))
    open_console().print(table)


def _say(text: str) -> None:
    from kivnun.data.visible import make_visible

    typer.echo("\n".join(make_visible(line) for line in text.split("\n")))
