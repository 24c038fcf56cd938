"""A comparison of strategies on the terminal: a table of the arms, those that were not run, and the verdict last."""

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from kivnun.cli.output import tell
from kivnun.cli.runs_table import COLUMN_GAP, open_console
from kivnun.data.visible import isolate, make_visible
from kivnun.decide.report_parts import Cell, arm_cells, say_load
from kivnun.decide.results import Arm, Strategies
from kivnun.evaluation.wording import say_metric_name, say_points

LAST_TO_LEAVE_OUT = 3
"""Columns that stay however narrow a terminal is: the arm, its quality and its gain."""


def print_strategies(strategies: Strategies) -> None:
    """Print the arms, what was not run, what is missing, and the verdict."""
    console = open_console()
    table, left_out = _table(strategies, console.width)
    if table is not None:
        console.print(table)
    if left_out:
        tell(f"no room for: {', '.join(left_out)}; the page and --json have everything")
    for line in _lines(strategies):
        console.print(make_visible(line), markup=False, soft_wrap=True)


def _lines(strategies: Strategies) -> list[str]:
    """What is said below the table, the verdict last."""
    lines = [f"not run: {arm.name} ({arm.state}): {arm.reason}" for arm in strategies.arms if arm.state != "measured"]
    gaps = {name: getattr(strategies.gaps, name) for name in ("knowledge", "behaviour", "retrieval")}
    known = [f"{name} {say_points(share)}" for name, share in gaps.items() if share is not None]
    lines += [f"missing, in points: {', '.join(known)}"] if known else []
    lines += [
        f"forgetting of {each.arm}: {each.before:.3f} to {each.after:.3f} bits per byte on {each.num_texts} other texts"
        for each in strategies.forgetting
    ]
    lines += [f"note: {note}" for note in strategies.notes]
    lines += [load] if (load := say_load(strategies)) else []
    lines += [strategies.power] if strategies.power else []
    if strategies.looks > 1:
        lines.append(f"these test rows have been looked at by {strategies.looks} comparisons; fresh rows are safer")
    lines += [
        f"break-even of {arm.name}: {arm.cost.break_even_note}"
        for arm in strategies.arms
        if arm.cost is not None and arm.cost.break_even_note
    ]
    decision = strategies.decision
    # The verdict's own sentence tells of the limits where nothing keeps them.
    lines += [f"{name}: {reason}" for name, reason in decision.reasons.items() if name in decision.order]
    lines.append(f"ordered {decision.order_note}")
    return [*lines, "", decision.sentence]


def _table(strategies: Strategies, width: int) -> tuple[Table | None, list[str]]:
    """As many columns as there is room for, from the first one on, and the names of the others."""
    cells = arm_cells(strategies)
    if not cells:
        return None, []
    order = {name: number for number, name in enumerate(strategies.decision.order)}
    arms = sorted(
        (arm for arm in strategies.arms if arm.name in cells), key=lambda arm: order.get(arm.name, len(order))
    )
    names = {name: name for name in cells[arms[0].name]}
    names |= {"quality": say_metric_name(strategies.metric)} if "quality" in names else {}
    columns = {
        names[name]: [_cell(cells[arm.name][name], is_short=name == "break-even") for arm in arms] for name in names
    }
    columns = {"arm": [_name(arm, strategies) for arm in arms], **columns}
    left_out: list[str] = []
    while sum(_width(name, each) for name, each in columns.items()) > width and len(columns) > LAST_TO_LEAVE_OUT:
        left_out.insert(0, list(columns)[-1])
        del columns[left_out[0]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    for number, arm in enumerate(arms):
        style = "bold green" if arm.name == strategies.decision.chosen else "" if arm.is_selectable else "dim"
        table.add_row(*(Text(each[number], style) for each in columns.values()))
    return table, left_out


def _name(arm: Arm, strategies: Strategies) -> str:
    mark = "* " if arm.name == strategies.decision.chosen else "  "
    return f"{mark}{isolate(arm.name)}" if arm.is_selectable else f"  ({isolate(arm.name)})"


def _cell(cell: Cell, *, is_short: bool) -> str:
    """A figure and what belongs to it, below each other."""
    return "\n".join(map(make_visible, (cell.value, *(() if is_short else cell.notes))))


def _width(name: str, cells: Sequence[str]) -> int:
    lines = [line for cell in cells for line in cell.split("\n")]
    return max(map(cell_len, [name, *lines])) + COLUMN_GAP
