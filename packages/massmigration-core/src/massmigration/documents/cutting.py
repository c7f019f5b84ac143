"""Cuts a queryset of documents into ranges by counting halves of the space of its keys.

Not by a walk along the index, which would read every key; not backwards, which Firestore does not do; and not by
arithmetic alone, for keys may be scattered over the whole space or crowded at its beginning.
"""

from __future__ import annotations

import dataclasses
import string
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import CharField, IntegerField, QuerySet, UUIDField

from massmigration import keys, sharding
from massmigration.keyset import Keyset
from massmigration.sharding import Plan, Range

MIN_SHARD_SIZE = 100
"""Objects below which cutting further costs more than it gains: each takes some calls over the network."""

FINE = 2
"""How many times smaller than a shard the pieces are that shards are made of."""

LISTED = 100
"""Keys that are read to find the last one."""

CHARACTERS = sorted(string.digits + string.ascii_letters + string.punctuation + " ")
LENGTH = 16
"""Characters by which names are told apart."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """Places from 0 to `end`, and the key that stands for each, in the same order."""

    end: int
    key: Callable[[int], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The keys after one place up to another, both None at the ends, and how many there are."""

    after: int | None
    upto: int | None
    count: int


def cut(queryset: QuerySet[Any], keyset: Keyset, count: int) -> Plan:
    """About `count` ranges that hold every row there is now; none if there are no rows."""
    space = space_of(queryset, keyset)
    if space is None:
        return sharding.cut(queryset, keyset, 1)
    return _Cutter(queryset, keyset, space).cut(count)


def space_of(queryset: QuerySet[Any], keyset: Keyset) -> Space | None:
    """That of integers, UUIDs or names; None for other keys."""
    if len(keyset.fields) > 1:
        return None
    field = queryset.model._meta.get_field(keyset.fields[0])
    field = getattr(field, "target_field", field)
    if isinstance(field, IntegerField):
        return Space(end=2**63 - 1, key=lambda place: place)
    if isinstance(field, UUIDField):
        return Space(end=2**128 - 1, key=lambda place: uuid.UUID(int=place))
    if isinstance(field, CharField):
        return Space(end=len(CHARACTERS) ** LENGTH - 1, key=_name)
    return None


def _name(place: int) -> str:
    found = ""
    for _ in range(LENGTH):
        place, index = divmod(place, len(CHARACTERS))
        found = CHARACTERS[index] + found
    return found


class _Cutter:
    def __init__(self, queryset: QuerySet[Any], keyset: Keyset, space: Space) -> None:
        self._queryset = queryset
        self._keyset = keyset
        self._space = space

    def cut(self, count: int) -> Plan:
        total = self._queryset.order_by().count()
        if not total:
            return Plan(ranges=(), total=0)
        size = max(-(-total // count), MIN_SHARD_SIZE)
        pieces = self._pieces(Piece(after=None, upto=None, count=total), max(size // FINE, 1))
        uppers = [self._encoded(place) for place in _bounds(pieces, size)]
        last = self._last(next(piece for piece in reversed(pieces) if piece.count))
        lowers: list[list[Any] | None] = [None, *uppers]
        ranges = [Range(lower=low, upper=up) for low, up in zip(lowers, [*uppers, last], strict=True)]
        return Plan(ranges=ranges, total=total)

    def _pieces(self, piece: Piece, size: int) -> list[Piece]:
        """The piece, halved until none has more than `size` keys, or is a single place."""
        done: list[Piece] = []
        waiting = [piece]
        while waiting:
            piece = waiting.pop()
            halves = self._halves(piece) if piece.count > size else None
            if halves is None:
                done.append(piece)
            else:
                waiting += reversed(halves)
        return done

    def _halves(self, piece: Piece) -> tuple[Piece, Piece] | None:
        low = 0 if piece.after is None else piece.after
        high = self._space.end if piece.upto is None else piece.upto
        middle = (low + high) // 2
        if middle in (low, high):
            return None
        left = self._page(piece.after, middle).order_by().count()
        return (
            Piece(after=piece.after, upto=middle, count=left),
            Piece(after=middle, upto=piece.upto, count=max(piece.count - left, 0)),
        )

    def _last(self, piece: Piece) -> list[Any]:
        """The greatest key, which is in this piece."""
        while piece.count > LISTED and (halves := self._halves(piece)) is not None:
            piece = halves[1] if halves[1].count else halves[0]
        *_, last = self._keyset.rows(self._page(piece.after, piece.upto))
        return keys.encode(last)

    def _page(self, after: int | None, upto: int | None) -> QuerySet[Any]:
        return self._keyset.page(self._queryset, self._encoded(after), self._encoded(upto))

    def _encoded(self, place: int | None) -> Any:
        return None if place is None else keys.encode((self._space.key(place),))


def _bounds(pieces: Sequence[Piece], size: int) -> list[int]:
    """Where shards of about `size` keys end, but for the last."""
    found: list[int] = []
    count = 0
    left = sum(piece.count for piece in pieces)
    for piece in pieces:
        count += piece.count
        left -= piece.count
        if count >= size and left and piece.upto is not None:
            found.append(piece.upto)
            count = 0
    return found
