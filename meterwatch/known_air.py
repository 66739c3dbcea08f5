"""The air as it is stored: measured up to now, and forecast from now on. Refuses to know what it is asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from meterwatch.weather import EVERYWHERE, Weather
from storage.ambient import FORECAST, AmbientStore


@dataclass(frozen=True, slots=True)
class KnownAir:
    """Of some areas."""

    told: Weather = field(default_factory=Weather)
    forecast: Weather = field(default_factory=Weather)


async def told_air(
    store: AmbientStore | None, from_us: int, to_us: int, max_age_us: int, areas: Collection[str] | None = None
) -> Weather:
    """What was measured in a span, of these areas and of everywhere; None: of all. No store: nothing.

    max_age_us: for how long a temperature counts. Raises StorageUnavailable.
    """
    if store is None:
        return Weather()
    return Weather(await store.readings(from_us - max_age_us, to_us, areas=_asked(areas)))


async def known_air(
    store: AmbientStore | None, from_us: int, now_us: int, max_age_us: int, areas: Collection[str] | None = None
) -> KnownAir:
    """The same from from_us up to now, and what is forecast from now on."""
    if store is None:
        return KnownAir()
    told = await told_air(store, from_us, now_us, max_age_us, areas)
    forecast = await store.readings(now_us - max_age_us, table=FORECAST, areas=_asked(areas))
    return KnownAir(told, Weather(forecast))


def _asked(areas: Collection[str] | None) -> set[str] | None:
    return None if areas is None else {EVERYWHERE, *areas}
