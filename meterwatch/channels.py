"""The twelve channels of a read, in the one order that wire, memory and table share.

Bit i of a channel mask is CHANNELS[i]. Adding a channel means: append here, in ingest.proto (field 16 + i), in
reads.proto and in a migration; nothing else lists them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np


class Channel(NamedTuple):
    """One measured quantity: its column name (unit as suffix) and its dtype in memory and on the wire."""

    name: str
    dtype: np.dtype[np.generic]


_I4: Final = np.dtype("<i4")
_F4: Final = np.dtype("<f4")
_U4: Final = np.dtype("<u4")

CHANNELS: Final[tuple[Channel, ...]] = (
    Channel("import_wh", _I4),
    Channel("export_wh", _I4),
    Channel("import_varh", _I4),
    Channel("export_varh", _I4),
    Channel("voltage_a_v", _F4),
    Channel("voltage_b_v", _F4),
    Channel("voltage_c_v", _F4),
    Channel("current_a_a", _F4),
    Channel("current_b_a", _F4),
    Channel("current_c_a", _F4),
    Channel("power_factor", _F4),
    Channel("device_status", _U4),
)
CHANNEL_NAMES: Final = tuple(channel.name for channel in CHANNELS)
CHANNEL_BIT: Final = {channel.name: 1 << i for i, channel in enumerate(CHANNELS)}
ALL_CHANNELS: Final = (1 << len(CHANNELS)) - 1
ENERGY: Final = CHANNEL_NAMES[0:4]
VOLTAGE: Final = CHANNEL_NAMES[4:7]
CURRENT: Final = CHANNEL_NAMES[7:10]

INTERVALS_S: Final = (60, 300, 600, 900, 1800, 3600, 86_400)
"""Interval lengths accepted. Each divides a day."""
