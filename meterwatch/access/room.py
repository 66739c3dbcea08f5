"""Room for calls: how many are under way, of each identity and of all, and what is beyond it is told to come again.

One person's queries must not keep the database's pool (storage.pool, 8 connections) from everybody else's, nor one
person's subscriptions the room of all. What head-ends send is not counted here: streams, credits and queues bound it.
Callers of whom nothing is known (LOCAL) are not told apart: neither by their address, which is one for a whole machine
or gateway, nor by their connection, of which anybody opens another one. For them the limits of all hold alone.

No clock, no waiting: whoever finds no room is refused at once, before his request is read.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from meterwatch.access.identity import Identity
from meterwatch.access.methods import Takes
from meterwatch.config import Server
from meterwatch.errors import Overloaded

CALL_RETRY_S: Final = 1.0
SUBSCRIPTION_RETRY_S: Final = 5.0


class Place(NamedTuple):
    """What somebody has taken, to be given back with `Room.leave`."""

    name: str
    takes: Takes


class Room:
    """Places taken and not given back. `calls`: of all."""

    def __init__(self, limits: Server) -> None:
        self._limits = limits
        self._taken: Counter[Place] = Counter()
        self.calls = 0

    def take(self, identity: Identity, takes: Takes) -> Place | None:
        """A place; None for what needs none. Overloaded, named as the setting, if there is no room."""
        if takes is Takes.NOTHING:
            return None
        place = Place(identity.name, takes)
        if not identity.local:
            self._check_own(place)
        if takes is Takes.CALL:
            if self.calls >= self._limits.calls_max:
                raise Overloaded(
                    "CALLS_MAX",
                    f"{self.calls} calls are under way; expected at most that; wait for one of them to end",
                    CALL_RETRY_S,
                )
            self.calls += 1
        self._taken[place] += 1
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, once."""
        self.calls -= place.takes is Takes.CALL
        self._taken[place] -= 1
        if not self._taken[place]:
            del self._taken[place]

    def _check_own(self, place: Place) -> None:
        own = self._taken[place]
        if place.takes is Takes.CALL and own >= self._limits.identity_calls_max:
            raise Overloaded(
                "IDENTITY_CALLS_MAX",
                f"{own} calls of {place.name!r} are under way; expected at most that; wait for an answer before asking "
                "again",
                CALL_RETRY_S,
            )
        if place.takes is Takes.SUBSCRIPTION and own >= self._limits.identity_subscribers_max:
            raise Overloaded(
                "IDENTITY_SUBSCRIBERS_MAX",
                f"{own} subscriptions of {place.name!r} are open; expected at most that; close one",
                SUBSCRIPTION_RETRY_S,
            )
