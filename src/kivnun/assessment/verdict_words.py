"""Verdicts of people and judges in words and table cells, the same on the command line and in a report."""

from kivnun.assessment.judge import ScoredAnswers
from kivnun.assessment.labels import ScoreAgreement
from kivnun.assessment.verdicts import Agreement, JudgeVerdict, RaterAgreement, Tally, Verdicts
from kivnun.data.visible import isolate
from kivnun.evaluation.results import Estimate
from kivnun.evaluation.wording import NBSP, say_p_value, say_percent, say_rows

NOT_MEASURED = "agreement with people: not measured"


def verdict_columns(verdicts: Verdicts) -> tuple[str, ...]:
    """Headings of `verdict_rows`.

    Args:
        verdicts: The verdicts.
    """
    first, second = map(isolate, verdicts.names)
    return "who", "rows", f"{first} better", "tie", f"{second} better", "not decided", "sign test"


def verdict_rows(verdicts: Verdicts) -> list[tuple[str, ...]]:
    """One row of cells for people together, each rater and each judge.

    Args:
        verdicts: The verdicts.
    """
    return [_cells(tally) for tally in verdicts.tallies]


def say_verdicts(verdicts: Verdicts) -> list[str]:
    """Everything beside the counts in sentences: who is better, how far raters agree, how far judges can be believed.

    Args:
        verdicts: The verdicts.
    """
    lines = [say_better(tally, verdicts.names) for tally in verdicts.tallies if tally.kind != "rater"]
    if verdicts.num_same:
        lines.append(f"{say_rows(verdicts.num_same)} more have the same answer from both, and nobody was asked")
    lines += [line for tally in verdicts.raters for line in _say_left(tally)]
    if verdicts.agreement is not None:
        lines += say_rater_agreement(verdicts.agreement)
    elif verdicts.raters:
        lines.append("agreement among raters: not measured, since no row was rated by two")
    return [*lines, *(line for judge in verdicts.judges for line in say_judge(judge))]


def say_better(tally: Tally, names: tuple[str, str]) -> str:
    """Which model is better, or that none is shown to be.

    Args:
        tally: A count.
        names: What the two models are called.
    """
    who = "people" if tally.kind == "people" else f"{tally.kind} {isolate(tally.who)}"
    if not tally.num_rows:
        return f"{who}: no row is decided"
    against = f"{tally.a:,} to {tally.b:,} with {tally.tie:,} ties on {say_rows(tally.num_rows)}"
    p_value = f"exact sign test {say_p_value(tally.p_value)}"
    if tally.better is None:
        return f"{who}: no difference is shown, {against} ({p_value})"
    return f"{who}: {isolate(names[0 if tally.better == 'a' else 1])} is better, {against} ({p_value})"


def say_rater_agreement(agreement: RaterAgreement) -> list[str]:
    """How far the raters agree, all together and each two.

    Args:
        agreement: Their agreement.
    """
    nominal, ordinal = _say_beyond_chance(agreement.nominal), _say_beyond_chance(agreement.ordinal)
    lines = [
        f"agreement among raters on {say_rows(agreement.num_rows)}: Krippendorff's alpha {nominal}; {ordinal} with a "
        "tie as the middle"
    ]
    return [
        *lines,
        *(f"  {isolate(pair.who[0])} and {isolate(pair.who[1])}: {say_agreement(pair)}" for pair in agreement.pairs),
    ]


def say_judge(judge: JudgeVerdict) -> list[str]:
    """How far a judge can be believed: its agreement with people, and what it does when answers change places.

    Args:
        judge: Its verdict.
    """
    name, position = isolate(judge.judged.model), judge.judged.position
    people = NOT_MEASURED if judge.with_people is None else f"agreement with people: {say_agreement(judge.with_people)}"
    lines = [f"judge {name}, {people}"]
    total = sum(position.values())
    if total:
        lines.append(
            f"  asked in both orders: {position['same']:,} of {say_rows(total)} alike; the first place chosen twice "
            f"on {position['first']:,}, the second on {position['second']:,}; once a tie on {position['one_tie']:,}; "
            "where the orders differ, a tie is counted"
        )
    own = map(isolate, judge.judged.own)
    lines += [f"  it is {each} itself, and models tend to favour their own answers" for each in own]
    if judge.judged.num_unread:
        lines.append(f"  on {say_rows(judge.judged.num_unread)} its answer could not be read; they are not counted")
    return lines


def say_agreement(agreement: Agreement) -> str:
    """The agreement of two in words.

    Args:
        agreement: Of the two.
    """
    share, rows = agreement.share, say_rows(agreement.num_rows)
    interval = f"{say_percent(share.low)} to {say_percent(share.high)}"
    return f"{say_percent(share.value)} of {rows} ({interval}), Cohen's kappa {_say_beyond_chance(agreement.kappa)}"


def say_scores(scored: ScoredAnswers, agreement: ScoreAgreement | None) -> list[str]:
    """The grades of a judge, and how far people give the same.

    Args:
        scored: The grades.
        agreement: With people's grades; None where there are none.
    """
    mean, counts = scored.mean(), ", ".join(f"{count:,} of {score}" for score, count in scored.counts.items())
    lines = [f"judge {isolate(scored.model)}: no grade could be read"]
    if mean is not None:
        interval = f"95{NBSP}% interval {mean.low:.2f} to {mean.high:.2f}"
        lines = [
            f"judge {isolate(scored.model)}: mean grade {mean.value:.2f} ({interval}) on {say_rows(len(scored.read))}"
        ]
        lines.append(f"  grades: {counts}")
    unread = len(scored.scores) - len(scored.read)
    lines += [f"  on {say_rows(unread)} its answer could not be read; they are not counted"] if unread else []
    if agreement is None:
        return [*lines, NOT_MEASURED]
    ordinal, interval = _say_beyond_chance(agreement.ordinal), _say_beyond_chance(agreement.interval)
    same = f"{say_percent(agreement.share.value)} of {say_rows(agreement.num_rows)} with the same grade"
    alphas = f"Krippendorff's alpha {ordinal} of the ranks, {interval} of the numbers"
    return [*lines, f"agreement with people: {same}; {alphas}"]


def _say_left(tally: Tally) -> list[str]:
    """A rater who chooses one side beyond chance is told of; chance makes that one rater in twenty."""
    decisive = tally.a + tally.b
    if tally.left is None or not decisive:
        return []
    leaning = Tally(tally.who, "rater", tally.left, 0, decisive - tally.left)
    if leaning.better is None:
        return []
    p_value = say_p_value(leaning.p_value)
    times = f"{tally.left:,} of {decisive:,} times"
    return [
        f"{isolate(tally.who)} chose the left answer {times}, more one-sidedly than chance makes likely ({p_value})"
    ]


def _say_beyond_chance(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not defined, since every verdict is the same"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _cells(tally: Tally) -> tuple[str, ...]:
    shares = tally.shares
    named = f"{tally.kind} {isolate(tally.who)}"
    who = "people, by majority" if tally.kind == "people" else named
    if shares is None:
        return who, "0", "-", "-", "-", str(tally.skipped), "-"
    counts = {"a": tally.a, "tie": tally.tie, "b": tally.b}
    cells = [
        f"{counts[name]:,}{NBSP}({say_percent(each.low)} to {say_percent(each.high)})" for name, each in shares.items()
    ]
    return who, f"{tally.num_rows:,}", *cells, f"{tally.skipped:,}", say_p_value(tally.p_value)
