"""Events that are waited for: until heard, refused, or not come again in time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.unheard import AGAIN_S, KEYS_MAX, Unheard

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
