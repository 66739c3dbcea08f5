"""The metric of overdue reads has a bounded number of labels, and loses no read by that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meterwatch.gap_watch import GROUPS_MAX, OTHER, largest
from meterwatch.metrics import Metrics

counts = st.dictionaries(st.text("abo", max_size=6) | st.just(OTHER), st.integers(1, 9), max_size=12)


@given(counts, st.integers(1, 8))
def test_the_greatest_counts_keep_their_label_and_the_rest_is_one(told: dict[str, int], most: int) -> None:
    found = largest(list(told.items()), most)
    names = [name for name, _ in found]
    assert len(found) <= most
    assert len(set(names)) == len(names)
    assert sum(count for _, count in found) == sum(told.values())
    by_name = {name: count for name, count in found if name != OTHER}
    assert all(told[name] == count for name, count in by_name.items())
    left_out = [count for name, count in told.items() if name not in by_name and name != OTHER]
    assert all(count >= max(left_out, default=0) for count in by_name.values())
    if len(told) <= most:
        assert dict(found) == told


def test_a_thousand_head_ends_that_are_behind_are_64_label_sets() -> None:
    metrics = Metrics()
    metrics.overdue(largest([(f"H{number:04}", number) for number in range(1, 1001)]))
    [family] = [one for one in metrics.registry.collect() if one.name == "meterwatch_reads_overdue"]
    assert len(family.samples) == GROUPS_MAX
    by_label = {sample.labels["head_end"]: sample.value for sample in family.samples}
    assert by_label["H1000"] == 1000
    assert by_label[OTHER] == sum(range(1, 1001)) - sum(range(938, 1001))
