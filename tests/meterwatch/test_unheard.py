"""Events that are waited for: until heard, refused, or not come again in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.unheard import AGAIN_S, HOLD_S_MAX, KEYS_MAX, OWN_KEYS_MAX, Unheard

Step = tuple[str, int, int]
steps = st.lists(st.tuples(st.sampled_from(["arrived", "heard", "failed"]), st.integers(0, 3), st.integers(0, 40)))


@given(steps)
def test_the_oldest_equals_a_scalar_walk(taken: list[Step]) -> None:
    unheard, now_s = Unheard(), 0
    arrived: dict[int, int] = {}
    until: dict[int, float] = {}
    for what, seq, pause_s in taken:
        now_s += pause_s
        arrived = {k: at for k, at in arrived.items() if until.get(k, now_s) >= now_s}
        until = {k: at for k, at in until.items() if k in arrived}
        assert unheard.oldest_us(now_s) == min(arrived.values(), default=None)
        match what:
            case "arrived":
                unheard.arrived((1, 1, seq), now_s)
                arrived.setdefault(seq, now_s)
                until.pop(seq, None)
            case "heard":
                unheard.heard((1, 1, seq))
                arrived.pop(seq, None)
                until.pop(seq, None)
            case _:
                unheard.failed((1, 1, seq), now_s)
                if seq in arrived:
                    until[seq] = now_s + AGAIN_S
        assert unheard.oldest_us(now_s) == min(arrived.values(), default=None)


def test_a_sender_that_fills_it_does_not_make_it_grow() -> None:
    unheard = Unheard()
    for seq in range(KEYS_MAX + 10):
        unheard.arrived((1, 1, seq), seq)
        unheard.failed((1, 1, seq), 0.0)
    assert unheard.oldest_us(AGAIN_S) == 0
    unheard.heard((1, 1, 0))
    assert unheard.oldest_us(AGAIN_S) == 1
    assert unheard.oldest_us(AGAIN_S + 1) is None


def test_who_fails_for_ever_holds_the_time_of_all_for_so_long_and_no_longer() -> None:
    unheard, key = Unheard(), (1, 1, 1)
    held_s = 0
    for now_s in range(10 * int(HOLD_S_MAX)):
        if now_s % int(AGAIN_S - 1) == 0 and now_s <= 2 * HOLD_S_MAX:
            unheard.arrived(key, now_s)
            unheard.failed(key, now_s)
        oldest = unheard.oldest_us(now_s)
        held_s = max(held_s, 0 if oldest is None else now_s - oldest)
    assert HOLD_S_MAX <= held_s <= HOLD_S_MAX + 1
    assert unheard.oldest_us(now_s) is None


def test_while_the_rules_are_not_asked_nothing_counts_as_held() -> None:
    """The database is away for an hour; what failed meanwhile is still waited for when it is back."""
    unheard, key = Unheard(), (1, 1, 1)
    unheard.arrived(key, 5)
    unheard.failed(key, 0.0)
    assert unheard.oldest_us(1.0) == 5
    unheard.arrived(key, 3600)
    unheard.failed(key, 3600.0)
    assert unheard.oldest_us(3601.0) == 5


def test_one_head_end_leaves_room_for_what_others_failed_with() -> None:
    unheard = Unheard()
    for seq in range(KEYS_MAX):
        unheard.arrived((1, 1, seq), 100)
    unheard.arrived((2, 1, 1), 7)
    assert unheard.oldest_us(0.0) == 7
    for seq in range(OWN_KEYS_MAX):
        unheard.heard((1, 1, seq))
    unheard.arrived((1, 2, 1), 3)
    assert unheard.oldest_us(0.0) == 3, "what was heard makes room"
