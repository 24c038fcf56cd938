"""Projects share a model: one that asks for much waits behind itself, and keeps nobody else out."""

import pytest
from heard import Heard, ask_for
from hypothesis import given
from hypothesis import strategies as st

from kivnun.serving.answers import BusyError
from kivnun.serving.one_answer import Answer
from kivnun.serving.scheduler import Scheduler
from kivnun.serving.shares import may_wait, next_to_start


@pytest.mark.parametrize(
    ("max_rows", "starts"), [(3, "abc aab aab aaa aa"), (2, "ab ca ba ba aa aa aa"), (1, "abcababaaaaaaa")]
)
def test_the_next_place_goes_to_the_project_with_the_fewest_then_to_the_latest_served(rows, prompts, max_rows, starts):
    scheduler = Scheduler(max_rows=max_rows, max_waiting=50)
    scheduler.share_memory(row_bytes=1 << 30, prefix_bytes=0)
    lane, order = scheduler.add(rows), []

    def ask(number: int, project: str) -> Heard:
        ears = Heard()

        def receive(told) -> None:
            if not ears.told:
                order.append((project, number))
            ears(told)

        scheduler.ask(lane, None, ask_for(prompts[2], 4, cache_salt=project), receive)
        return ears

    # While the thread is here, nothing begins; all have the same length, and end together.
    heard = scheduler.call(lambda: [ask(number, project) for number, project in enumerate("aaaaaaaaaabbbc")])
    assert all(len(ears.wait().tokens) == 4 for ears in heard)
    width = starts.index(" ") if " " in starts else 1
    found = "".join(project for project, _ in order)
    wanted = starts.replace(" ", "")
    for start in range(0, len(found), width):
        assert sorted(found[start : start + width]) == sorted(wanted[start : start + width])
    # Within a project the oldest comes first.
    assert all(
        [each for each in order if each[0] == project] == sorted(each for each in order if each[0] == project)
        for project in "abc"
    )
    scheduler.close()


def test_one_projects_crowd_keeps_no_other_out_and_twice_the_room_is_the_end(rows, prompts):
    scheduler = Scheduler(max_rows=1, max_waiting=6)
    lane, heard = scheduler.add(rows), []

    def ask(project: str) -> bool:
        heard.append(Heard())
        try:
            scheduler.ask(lane, None, ask_for(prompts[0], 3, cache_salt=project), heard[-1])
        except BusyError:
            heard.pop()
            return False
        return True

    asked = {"crowd": 9, "second": 5, "third": 5, "fourth": 3, "fifth": 1}
    taken = scheduler.call(lambda: {project: sum(ask(project) for _ in range(num)) for project, num in asked.items()})
    # One finds the place and six wait; then half of the room, a third of it, and at last there are twelve that wait.
    assert taken == {"crowd": 7, "second": 3, "third": 2, "fourth": 1, "fifth": 0}
    assert {len(ears.wait().tokens) for ears in heard} == {3}
    scheduler.close()


def waiting_of(counts: dict[str, int]) -> list[Answer]:
    asked = [ask_for([1], cache_salt=project) for project, count in counts.items() for _ in range(count)]
    return [Answer(number, None, each, Heard(), 1, lambda: None) for number, each in enumerate(asked)]


def test_fewer_places_come_before_a_longer_wait_and_that_before_age():
    active, waiting = waiting_of({"a": 2, "b": 1}), waiting_of({"a": 2, "b": 2})

    def served(active: list[Answer], latest_starts: dict[str, int], most_tokens: int | None = None) -> int | None:
        answer = next_to_start(waiting, active, latest_starts, most_tokens=most_tokens)
        return None if answer is None else answer.number

    assert served(active, {"a": 1, "b": 2}) == 2
    assert served(active[1:], {"a": 1, "b": 2}) == 0
    assert served(active[1:], {"a": 2, "b": 1}) == 2
    assert served([], {"a": 1}) == 2
    assert served([], {}) == 0
    assert served([], {}, most_tokens=1) == 0
    assert served([], {}, most_tokens=0) is None


def test_who_may_wait_when_the_room_is_full():
    def may(project: str, max_waiting: int = 6, **counts: int) -> bool:
        num_waiting = sum(counts.values())
        return may_wait(project, waiting_of(counts), num_waiting=num_waiting, max_waiting=max_waiting)

    assert may("a", a=5)
    assert not may("a", a=6)
    # Half of the room, a third of it, and so on.
    assert may("b", a=6)
    assert may("b", a=6, b=2)
    assert not may("b", a=6, b=3)
    assert may("c", a=6, b=3, c=1)
    assert not may("c", a=6, b=3, c=2)
    assert not may("a", a=6, b=3, c=2)
    # Twice the room is the end, even for one who has nothing.
    assert may("d", a=6, b=3, c=2)
    assert not may("e", a=6, b=3, c=2, d=1)
    assert not may("a", max_waiting=0)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=120), st.integers(0, 12))
def test_a_lone_project_fills_the_room_and_all_together_never_twice_of_it(projects, max_waiting: int):
    for asked in (projects, ["a"] * len(projects)):
        held: dict[str, int] = dict.fromkeys(asked, 0)
        for project in asked:
            total = sum(held.values())
            held[project] += may_wait(project, waiting_of(held), num_waiting=total, max_waiting=max_waiting)
            # Whoever has less than an eighth gets in, unless the last place is taken.
            assert held[project] or max_waiting == 0 or total == 2 * max_waiting
        assert sum(held.values()) <= 2 * max_waiting
    assert sum(held.values()) == min(len(projects), max_waiting)
