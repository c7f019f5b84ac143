"""Sharding of a queryset of documents into key ranges, by counting halves of the key space.

A walk along the index would read every key, and Firestore does not read it backwards. Arithmetic alone would not do:
keys may be scattered over the whole space, or crowded at its beginning.
"""

from __future__ import annotations

import dataclasses
import string
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.db.models import CharField, IntegerField, QuerySet, UUIDField

from massmigration.documents import conditions
from massmigration.paging import sharding
from massmigration.paging.keyset import Keyset, encode_key
from massmigration.paging.sharding import KeyRange, ShardPlan

MIN_SHARD_SIZE = 100
"""The number of objects below which a split costs more than it gains, because it takes several network calls."""

FINENESS = 2
"""The minimum factor by which a piece is smaller than a shard."""

LISTED = 100
"""The largest number of keys that are read to find the last one."""

CHARACTERS = sorted({*string.digits, *string.ascii_letters, *string.punctuation, " "} - {"/"})
"""The characters of names. Firestore takes a slash for the end of a name."""

LENGTH = 16
"""The number of characters that distinguish names."""

RESERVED = "__"
"""The prefix of names that Google reserves."""

BEFORE_RESERVED = "_^" + CHARACTERS[-1] * (LENGTH - 2)
"""The last name before the reserved ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """A key space: positions from 0 to `end`, and the key of each, in the same order."""

    end: int
    key: Callable[[int], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """The number of keys after one position, up to another. None: the end of the space."""

    after: int | None
    upto: int | None
    count: int


def split(queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
    """Return about `count` ranges that contain every present row; none if there are no rows.

    A queryset of an SQL database is split by `paging.sharding`.
    """
    parts = conditions.narrow(queryset)
    if parts is None:
        return sharding.split(queryset, keyset, count)
    if not parts.is_complete:
        return dataclasses.replace(_split(parts.found, keyset, count), is_total_estimated=True)
    return _split(queryset, keyset, count)


def _split(queryset: QuerySet[Any], keyset: Keyset, count: int) -> ShardPlan:
    space = space_of(queryset, keyset)
    if space is None:
        return sharding.split(queryset, keyset, 1)
    return _Splitter(queryset, keyset, space).split(count)


def space_of(queryset: QuerySet[Any], keyset: Keyset) -> Space | None:
    """Return the space of integer, UUID or text keys. None: keys of another type."""
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
    return BEFORE_RESERVED if found.startswith(RESERVED) else found


class _Splitter:
    def __init__(self, queryset: QuerySet[Any], keyset: Keyset, space: Space) -> None:
        self._queryset = queryset
        self._keyset = keyset
        self._space = space

    def split(self, count: int) -> ShardPlan:
        total = self._queryset.order_by().count()
        if not total:
            return ShardPlan(ranges=(), total=0)
        size = max(-(-total // count), MIN_SHARD_SIZE)
        pieces = self._pieces(Piece(after=None, upto=None, count=total), max(size // FINENESS, 1))
        uppers = [self._encoded(place) for place in _bounds(pieces, size)]
        last = self._last(pieces)
        if last is None:  # no row is left in the queryset since the count
            return ShardPlan(ranges=(), total=0)
        lowers: list[list[Any] | None] = [None, *uppers]
        ranges = [KeyRange(lower=low, upper=up) for low, up in zip(lowers, [*uppers, last], strict=True)]
        return ShardPlan(ranges=ranges, total=total)

    def _pieces(self, piece: Piece, size: int) -> list[Piece]:
        """Halve the piece until each piece has at most `size` keys or a single position."""
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

    def _last(self, pieces: Sequence[Piece]) -> list[Any] | None:
        """Return the greatest key. None: the pieces have no more rows."""
        waiting = list(pieces)
        while waiting:
            piece = waiting.pop()
            halves = self._halves(piece) if piece.count > LISTED else None
            if halves is not None:
                waiting += halves
            elif found := list(self._keyset.rows(self._page(piece.after, piece.upto))):
                return encode_key(found[-1])
        return None

    def _page(self, after: int | None, upto: int | None) -> QuerySet[Any]:
        return self._keyset.page(self._queryset, self._encoded(after), self._encoded(upto))

    def _encoded(self, place: int | None) -> Any:
        return None if place is None else encode_key((self._space.key(place),))


def _bounds(pieces: Sequence[Piece], size: int) -> list[int]:
    """Return the ends of shards of about `size` keys, without the last end."""
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
