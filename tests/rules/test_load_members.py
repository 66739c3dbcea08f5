"""Who counts for the load of a transformer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from overload_world import START_US, change, tree

from rules.load import Members


def test_a_meter_that_measures_a_transformer_is_no_customer_of_one() -> None:
    plain = tree(4, 2)
    measured = replace(plain, measures=np.array([-1, -1, 0, -1], np.int32))
    before, after = (Members(one, 900, 0.95) for one in (plain, measured))
    assert (before.count().tolist(), after.count().tolist()) == ([2, 2], [1, 2])
    window = START_US // 900_000_000
    assert after.expected(window).tolist() == [before.expected(window)[0] // 2, before.expected(window)[1]]
    assert [a == b for a, b in zip(after.digest().tolist(), before.digest().tolist(), strict=True)] == [False, True]
    cells, _ = after.cells(change([(slot, START_US + 900_000_000, 900, 100, 1) for slot in range(4)]))
    assert dict(zip(cells.transformer.tolist(), cells.wh.tolist(), strict=True)) == {0: 100, 1: 200}
