"""The page and the terminal's table of a comparison: verdict first, every text escaped, nothing from elsewhere."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from planted_strategies import plant

from kivnun.cli.decide_table import print_strategies
from kivnun.decide.plots import Dot, draw_pareto
from kivnun.decide.report import render_strategies
from kivnun.decide.report_parts import arm_cells, cost_axis
from kivnun.decide.results import Gaps, Strategies
from kivnun.decide.verdict import decide_between
from kivnun.evaluation.results import Estimate
from kivnun.recipe.decide import DecideSection

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Checked(HTMLParser):
    """Elements that are closed in the order they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing stays open."""

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def strategies() -> Strategies:
    return plant()


@pytest.fixture(scope="module")
def page(strategies: Strategies) -> str:
    return render_strategies(strategies)


def test_the_page_is_whole_and_says_everything(page: str, strategies: Strategies) -> None:
    checked = Checked()
    checked.feed(page)
    assert (checked.wrong, checked.open) == ([], [])
    assert strategies.decision.sentence in page
    for arm in strategies.arms:
        assert arm.name in page
        assert arm.reason in page
    for note in strategies.notes:
        assert note in page
    for word in (
        "knowledge",
        "behaviour",
        "retrieval",
        "training rows",
        "Bits per byte",
        strategies.power,
        "test.jsonl:17",
    ):
        assert word in page


def test_the_verdict_comes_before_all_figures(page: str, strategies: Strategies) -> None:
    assert page.index(strategies.decision.sentence) < page.index("<svg") < page.index("All figures")


def test_texts_of_the_data_are_escaped_and_find_their_own_direction(page: str) -> None:
    assert "<b>נתיב</b>" not in page
    assert "&lt;b&gt;נתיב&lt;/b&gt;" in page
    assert '<span class="user" dir="auto">' in page
    assert '<bdi dir="auto">חוזים ותשובות</bdi>' in page


def test_nothing_is_fetched_and_no_script_runs(page: str) -> None:
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "default-src 'none'" in page


def test_arms_stand_in_the_order_of_their_cost_and_the_chosen_one_is_marked(page: str, strategies: Strategies) -> None:
    table = page[page.index("All figures") : page.index("Quality and cost</h2>")]
    places = [table.index(f'<th scope="row">{name}') for name in strategies.decision.order]
    assert places == sorted(places)
    assert table.count("chosen</span>") == 1


def test_columns_without_any_figure_are_left_out(strategies: Strategies) -> None:
    bare = replace(
        strategies, arms=tuple(replace(arm, freshness=None, retrieval={}, citations=None) for arm in strategies.arms)
    )
    assert {"after a change", "retrieval", "citations"} <= set(arm_cells(strategies)["rag"])
    assert not {"after a change", "retrieval", "citations"} & set(arm_cells(bare)["rag"])


def test_costs_are_compared_in_what_every_arm_has(strategies: Strategies) -> None:
    assert cost_axis(strategies)[0].startswith("dollars")
    unpriced = [
        replace(arm, cost=replace(arm.cost, dollars_per_1000=None) if arm.cost else None) for arm in strategies.arms
    ]
    assert cost_axis(replace(strategies, arms=tuple(unpriced)))[0].startswith("tokens")
    here = tuple(arm for arm in unpriced if arm.name != "rag:claude")
    assert cost_axis(replace(strategies, arms=here))[0].startswith("seconds")


def test_the_line_of_the_best_joins_those_that_no_arm_beats_in_both() -> None:
    def dot(name: str, score: float, cost: float) -> Dot:
        return Dot(name, Estimate(score, score - 0.05, score + 0.05, ""), cost=cost)

    drawn = draw_pareto(
        [dot("a", 0.5, 1), dot("as good", 0.5, 2), dot("c", 0.7, 3), dot("worse", 0.6, 3)], "cost", str, width=400
    )
    assert drawn is not None
    (places,) = re.findall(r'class="front" points="([^"]*)"', drawn)
    assert len(places.split()) == 2


def test_a_comparison_of_next_to_nothing_is_shown_as_well(strategies: Strategies) -> None:
    alone = tuple(arm for arm in strategies.arms if arm.name == "prompt")
    bare = replace(
        strategies, arms=alone, gaps=Gaps(None, None, None), curve=(), forgetting=(), flips=(), notes=(), looks=1,
        decision=decide_between(alone, DecideSection()),
    )  # fmt: skip
    text = render_strategies(bare)
    assert "only arm" in text
    nothing = replace(bare, arms=(), decision=decide_between((), DecideSection()))
    assert "No verdict" in render_strategies(nothing)


def test_the_terminal_ends_with_the_verdict(strategies: Strategies, capsys: pytest.CaptureFixture[str]) -> None:
    print_strategies(strategies)
    said = capsys.readouterr()
    assert said.out.rstrip("\n").endswith(strategies.decision.sentence)
    assert "not run: rag_tuned (pruned): its gain on the pilot rows is at most 1.2 points" in said.out
    assert "* rag:claude" in said.out
    assert said.err == ""


def test_a_narrow_terminal_leaves_columns_out_and_says_which(
    strategies: Strategies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_strategies(strategies)
    said = capsys.readouterr()
    assert "no room for: per 1,000" in said.err
    table = re.sub(r"\x1b\[[0-9;]*m", "", said.out.partition("not run:")[0])
    assert max(map(len, table.splitlines())) <= 80


def test_a_hostile_name_cannot_steer_the_terminal(strategies: Strategies, capsys: pytest.CaptureFixture[str]) -> None:
    evil = replace(strategies, notes=("\x1b[31mred", *strategies.notes))
    print_strategies(evil)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.skipif(CHROMIUM is None, reason="no browser here")
def test_in_a_browser_nothing_is_wider_than_a_phone(page: str, tmp_path: Path) -> None:
    probe = "<script>onload=()=>{document.title=document.documentElement.scrollWidth+' '+innerWidth}</script></body>"
    text = page.replace("</body>", probe).replace(
        "style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    (tmp_path / "page.html").write_text(text, "utf-8")
    ended = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
         "--window-size=500,900", "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"<title>(\d+) (\d+)</title>", ended.stdout)
    assert found is not None, ended.stderr[-500:]
    assert int(found[1]) <= int(found[2])
