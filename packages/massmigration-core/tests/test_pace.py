import datetime as dt

import pytest

from massmigration.exceptions import BadPace
from massmigration.pace import Pace, difference

CHANGES = {
    "batch_duration": ("0.2", dt.timedelta(milliseconds=200)),
    "max_batch_size": ("1000", 1000),
    "max_rows_per_second": ("2.5", 2.5),
    "max_workers": ("2", 2),
    "window": ("22:00-06:00", (dt.time(22), dt.time(6))),
    "throttles": ("off", False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_text_is_parsed_and_stored_and_read_again(name):
    text, value = CHANGES[name]

    pace = Pace().with_changes({name: text})

    assert getattr(pace, name) == value
    assert pace.as_json().keys() == {name}
    assert Pace.of(pace.as_json()) == pace
    assert pace.with_changes({name: None}) == Pace()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_duration", "0"),
        ("batch_duration", "601"),
        ("max_batch_size", "0"),
        ("max_batch_size", "1.5"),
        ("max_rows_per_second", "nan"),
        ("max_rows_per_second", "inf"),
        ("max_rows_per_second", -1),
        ("max_workers", 0),
        ("max_workers", True),
        ("max_workers", 2**31),
        ("window", "22:00"),
        ("window", "22:00-22:00"),
        ("window", "22:00-06:00-07:00"),
        ("window", ["22:00", None]),
        ("throttles", "maybe"),
    ],
)
def test_other_values_are_refused_with_what_is_allowed(name, value):
    with pytest.raises(BadPace, match=f"for {name}; allowed: .*Nothing was changed"):
        Pace().with_changes({name: value})


def test_a_new_level_begins_without_the_limit_of_workers_that_was_steered():
    steered = Pace(level="steady", steered_workers=1)

    assert steered.with_changes({"max_batch_size": 5}).steered_workers == 1
    assert steered.with_changes({"level": "full"}) == Pace(level="full")


@pytest.mark.parametrize("name", ["stop_at_rows", "speed"])
def test_a_name_that_operators_do_not_set_is_refused(name):
    with pytest.raises(BadPace, match=f"Found the pace '{name}'; allowed: batch_duration"):
        Pace().with_changes({name: 1})


def test_a_name_of_a_later_version_is_ignored():
    assert Pace.of({"max_workers": 2, "later": {}}) == Pace(max_workers=2)


def test_a_change_is_told_in_words():
    new = Pace(max_workers=2, window=(dt.time(22), dt.time(6)), throttles=False)

    assert difference(Pace(max_workers=4), new) == (
        "max_workers: 4 -> 2; window: default -> 22:00-06:00; throttles: on -> off"
    )


def test_a_requested_stop_is_stored_and_removed():
    pace = Pace(max_workers=2, stop_at_rows=10, stop_at=dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc))

    assert Pace.of(pace.as_json()) == pace
    assert pace.stops
    assert pace.without_stop() == Pace(max_workers=2)
