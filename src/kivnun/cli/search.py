"""`kivnun search`: passages of an index that answer a query, or values of a recipe that validate best."""

from pathlib import Path
from typing import Annotated

import typer

RECIPE_ENDINGS = (".yaml", ".yml", ".json")


def search(
    target: Annotated[str, typer.Argument(metavar="INDEX|RECIPE", help="An index, or a recipe.", show_default=False)],
    query: Annotated[
        str | None, typer.Argument(help="Of an index: what is asked, in quotes.", show_default=False)
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Of an index: most passages; default 3.", min=1)] = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="Of an index: a value of metadata, as year=2024; repeatable.")
    ] = None,
    dense_weight: Annotated[
        float | None, typer.Option(help="Of an index: weight of the vectors, 0 to 1.", min=0.0, max=1.0)
    ] = None,
    reranker: Annotated[
        str | None, typer.Option(help="Of an index: a cross-encoder, hf:NAME or dir:FOLDER.", show_default=False)
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help="Of an index: a model that answers from the passages.", show_default=False)
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="With --answer: least fit of the best passage, 0 to 1.", min=0.0, max=1.0)
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="With --answer: longest answer in tokens; default 256.", min=1)
    ] = None,
    measure: Annotated[
        Path | None, typer.Option(help="Of an index: a JSONL file of queries with right documents or answers.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="With --measure: right documents as TSV, query, document, grade.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Of an index: its store's address with a password.")] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="Of a recipe: a file of ranges, in place of its own.")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Of a recipe: number of trials.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Of a recipe: where trials go; default: runs/, its name and -search.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Of a recipe: override a field: section.field=value; repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of a recipe: check it and its ranges, say what would be done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
) -> None:
    """Find the passages of an index for a query, or, given a recipe, search its values that validate best."""
    of_index = {
        "--k": k,
        "--filter": filters,
        "--dense-weight": dense_weight,
        "--reranker": reranker,
        "--answer": answer,
        "--min-score": min_score,
        "--max-new-tokens": max_new_tokens,
        "--measure": measure,
        "--qrels": qrels,
        "--store": store,
    }
    of_recipe = {"--space": space, "--trials": trials, "--out": out, "--set": overrides, "--dry-run": dry_run or None}
    if not _is_index(target, query):
        _refuse(of_index, f"{target} is a recipe, whose values are searched; INDEX must be a folder of `kivnun index`")
        from kivnun.cli.search_trials import search_values

        search_values(
            Path(target),
            space=space,
            trials=trials,
            out=out,
            overrides=overrides or [],
            dry_run=dry_run,
            as_json=as_json,
        )
        return
    _refuse(of_recipe, f"{target} is searched for passages; only the search of a recipe's values has it")
    _require_one_use(query, measure, answer, qrels, min_score, max_new_tokens)
    from kivnun.cli.search_passages import PassageSearch, measure_index, search_passages

    asked = PassageSearch(
        Path(target), k or 3, tuple(filters or ()), dense_weight, reranker, store, min_score, max_new_tokens or 256
    )
    if measure is not None:
        measure_index(asked, measure, qrels, k=k, as_json=as_json)
    else:
        search_passages(asked, query or "", answer=answer, as_json=as_json)


def _is_index(target: str, query: str | None) -> bool:
    """A second word is a query; else a folder is an index, and everything else a recipe."""
    return query is not None or Path(target).is_dir() or not (Path(target).is_file() or target.endswith(RECIPE_ENDINGS))


def _refuse(options: dict[str, object], why: str) -> None:
    # A weight or a score of 0 was given too.
    given = [name for name, value in options.items() if value not in (None, [])]
    if given:
        raise typer.BadParameter(f"{' and '.join(given)}: no effect here: {why}")


def _require_one_use(
    query: str | None,
    measure: Path | None,
    answer: str | None,
    qrels: Path | None,
    min_score: float | None,
    max_new_tokens: int | None,
) -> None:
    if (query is None) == (measure is None):
        raise typer.BadParameter("give a query in quotes, or --measure with a file of queries")
    if qrels is not None and measure is None:
        raise typer.BadParameter("--qrels has no effect without --measure")
    if answer is not None and measure is not None:
        raise typer.BadParameter("--answer has no effect on --measure, which measures what is found")
    if answer is None and (min_score is not None or max_new_tokens is not None):
        raise typer.BadParameter("--min-score and --max-new-tokens have no effect without --answer")
