"""The agenda hands out entries in order of time, whatever is added meanwhile."""

import heapq

from hypothesis import given
from hypothesis import strategies as st

from eigen.simulations.agenda import Agenda

delays = st.floats(0.0, 3.0)


@given(st.lists(delays, max_size=30), st.lists(st.lists(delays, max_size=3), max_size=60))
def test_it_is_a_queue_of_times_in_which_entries_of_one_time_keep_their_order(
    first: list[float], following: list[list[float]]
) -> None:
    agenda: Agenda[str, int] = Agenda()
    heap: list[tuple[float, int]] = []
    made = 0

    def add(at_s: float) -> None:
        nonlocal made
        made += 1
        agenda.add(at_s, "somebody", 1, made)
        heapq.heappush(heap, (at_s, made))

    for at_s in first:
        add(at_s)
    more = iter(following)
    for at_s, _, _, _, what in agenda.until(1e9):
        assert (at_s, what) == heapq.heappop(heap)
        for delay_s in next(more, ()):
            add(at_s + delay_s)
    assert not heap


@given(st.lists(delays, max_size=30), st.lists(st.floats(0.0, 4.0), max_size=8))
def test_it_can_be_left_at_any_time_and_gone_on_with(
    times: list[float], stops: list[float]
) -> None:
    agenda: Agenda[int, str] = Agenda()
    agenda.add_all(times, [(i, 0) for i in range(len(times))], "all")
    seen: list[tuple[float, int]] = []
    for stop_s in [*sorted(stops), 1e9]:
        for at_s, _, whom, _, _ in agenda.until(stop_s):
            assert at_s <= stop_s
            seen.append((at_s, whom))
            if len(seen) % 5 == 4:
                break
    seen += [(at_s, whom) for at_s, _, whom, _, _ in agenda.until(1e9)]
    assert seen == sorted((at_s, i) for i, at_s in enumerate(times))
