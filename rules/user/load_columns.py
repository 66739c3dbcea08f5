"""Windows of the load of transformers and feeders as the columns of user rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rules.user.program import Bools, Numbers


class LoadColumns:
    """rules.user.program.Columns over net_kw, net_kvar, rated_kva and coverage, each a float64 array."""

    def __init__(self, columns: Mapping[str, NDArray[np.float64]]) -> None:
        self._columns = columns
        self.rows = len(columns["net_kw"])

    def take(self, rows: NDArray[np.intp]) -> LoadColumns:
        return LoadColumns({name: values[rows] for name, values in self._columns.items()})

    def number(self, name: str) -> Numbers:
        if name == "load_kva":
            apparent: Numbers = np.hypot(self._columns["net_kw"], self._columns["net_kvar"])
            return apparent
        if name == "load_ratio":
            rated: Any = self._columns["rated_kva"]
            ratio: Numbers = np.divide(self.number("load_kva"), rated, out=np.full(self.rows, np.nan), where=rated > 0)
            return ratio
        return self._columns[name]

    def flag(self, name: str) -> Bools:
        raise KeyError(name)
