"""User rules over stored history: the alarms they would have raised, before they go live. Reads only, writes nothing.

The kernel is that of the service, as it judges what was touched: here every asset, over the whole span. Memory is a
part of the assets and their episodes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from psycopg_pool import AsyncConnectionPool

from meterwatch.episodes import Episode
from meterwatch.known_loads import KnownLoads
from meterwatch.user_judging import judged
from meterwatch.user_loads import LoadRows
from meterwatch.user_rules import RuleSet
from meterwatch.user_rules_at_work import StoredReads, assets_of, namer
from rules.apart import Apart
from rules.overload import Overload
from rules.user.columns import On
from rules.user.kernel import Kernel
from storage.evidence import EvidenceStore
from storage.past_loads import PastLoads
from storage.registry import RegistryStore


class Found(NamedTuple):
    """An alarm that would have been."""

    rule: str
    asset_kind: str
    asset: str
    episode: Episode


async def replay_rules(pool: AsyncConnectionPool[Any], rules: RuleSet, from_us: int, to_us: int) -> list[Found]:
    """Episodes of the rules that lie in a span, by onset. An end after to_us is not known. Raises StorageUnavailable.

    Membership and ratings are those of the registry at to_us.
    """
    store = EvidenceStore(pool)
    topology = await RegistryStore(pool).load_topology(to_us)
    reads = StoredReads(store, topology)
    overload = Overload(topology)
    past = KnownLoads(overload, PastLoads(pool, overload.members.window_s))
    found: list[Found] = []
    for on in On:
        assets = np.arange(assets_of(on, topology), dtype=np.int32)
        if not rules.on(on) or not len(assets):
            continue
        apart = Apart()
        kernel = Kernel(on, rules.on(on), len(assets), to_us, namer(on, topology), lambda: 0, apart=apart)
        ends = np.full(len(assets), to_us)
        kernel.touch(assets, np.full(len(assets), from_us), ends)
        await judged(kernel, reads if on is On.METER else LoadRows(on, overload, topology, past, reads.oldest_us))
        found += [
            Found(verdict.rule, on.value, topology.asset_name(on, verdict.asset_id), episode)
            for verdict in kernel.taken()
            for episode in verdict.episodes
            if episode.onset_us < to_us and (episode.cleared_us is None or episode.cleared_us > from_us)
        ]
        for rule, suspended in apart.suspended.items():
            raise ValueError(f"{rule}: {suspended.error!r}") from suspended.error
    return sorted(found, key=lambda one: (one.episode.onset_us, one.rule, one.asset))
