import datetime as dt
import json
import uuid
from decimal import Decimal

import pytest

from massmigration.paging.keyset import decode_key, encode_key

VALUES = [
    0,
    -(2**63),
    2**63 - 1,
    True,
    "",
    "é 😀 '\"\\",
    uuid.UUID(int=7),
    Decimal("1.50"),
    Decimal("-1E+20"),
    0.1,
    1e-300,
    b"\x00\xff",
    dt.date(2024, 2, 29),
    dt.time(23, 59, 59, 999999),
    dt.datetime(2024, 2, 29, 1, 2, 3, 4),  # noqa: DTZ001
    dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.timezone.utc),
    dt.timedelta(days=-1, microseconds=5),
    None,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_key_comes_back_from_json_as_it_was(value):
    (found,) = decode_key(json.loads(json.dumps(encode_key((value,)))))

    assert (found, type(found)) == (value, type(value))


def test_a_key_of_several_values_comes_back_in_order():
    assert decode_key(json.loads(json.dumps(encode_key(tuple(VALUES))))) == tuple(VALUES)


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab")], ids=["bytearray", "memoryview"])
def test_what_drivers_return_for_bytes_comes_back_as_bytes(value):
    assert decode_key(encode_key((value,))) == (b"ab",)


@pytest.mark.parametrize("value", [[1], {"a": 1}, object()], ids=["list", "dict", "object"])
def test_a_type_that_cannot_be_ordered_is_refused(value):
    with pytest.raises(TypeError, match=f"type {type(value).__name__} cannot be stored as a cursor"):
        encode_key((value,))
