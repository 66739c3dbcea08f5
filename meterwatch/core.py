"""What the service must not be without: if one of its jobs ends, all end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from alarm.desk import AlarmDesk
from meterwatch.errors import StorageUnavailable
from meterwatch.pipeline import Pipeline
from meterwatch.tasks import ending
from storage.embedded import EmbeddedCluster
from storage.lease import Lease

CLUSTER_CHECK_S = 1.0


class DatabaseGone(StorageUnavailable):
    """The embedded PostgreSQL has died. Who runs the service starts it anew, and with it the database."""


async def run_core(
    pipeline: Pipeline,
    desk: AlarmDesk,
    lease: Lease,
    cluster: EmbeddedCluster | None,
    *others: Coroutine[Any, Any, None],
) -> None:
    """Run the jobs. Raises what the first of them that ends raises."""
    async with asyncio.TaskGroup() as tasks:
        for job in (pipeline.run(), desk.keep_time(), lease.hold(), *others):
            tasks.create_task(ending(job))
        if cluster is not None:
            tasks.create_task(_stays(cluster))


async def _stays(cluster: EmbeddedCluster) -> None:
    """Watch the embedded PostgreSQL. DatabaseGone when it has died: nobody but us would start it again.

    A crash of one of its processes is not its death: it recovers by itself, and we wait.
    """
    while True:
        if not cluster.is_running():
            raise DatabaseGone(f"the embedded PostgreSQL in {cluster.data_dir} has died")
        await asyncio.sleep(CLUSTER_CHECK_S)
