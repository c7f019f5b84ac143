import logging

import pytest
from django.db.models import CharField, Count, F, Func, Window
from django.db.models.functions import RowNumber

from massmigration.exceptions import BadQuerySet
from massmigration.paging.querysets import can_lock_directly, is_joined, prepare
from testsupport.testapp.models import Diner, Person, Place, Profile, Restaurant


class Several(Func):
    function = "unnest"
    set_returning = True


def prepared(queryset, db_alias="default", **options):
    return prepare(queryset, db_alias, name="testapp:0001", **options)


REFUSED = {
    "none": (lambda: None, "returned NoneType; it must return a QuerySet"),
    "list": (lambda: [Place()], "returned list; it must return a QuerySet"),
    "raw": (lambda: Place.objects.raw("SELECT 1"), "returned RawQuerySet; it must return a QuerySet"),
    "slice": (lambda: Place.objects.all()[:10], "a sliced queryset, which cannot be paged"),
    "union": (lambda: Place.objects.all().union(Place.objects.all()), "a union of querysets, which cannot be paged"),
    "intersection": (lambda: Place.objects.all().intersection(Place.objects.all()), "a intersection of querysets"),
    "values": (lambda: Place.objects.values("name"), "values() or values_list(), but operations need objects"),
    "values_list": (lambda: Place.objects.values_list("pk", flat=True), "values() or values_list()"),
    "dates": (lambda: Place.objects.values_list("pk", "n", named=True), "values() or values_list()"),
    "window": (
        lambda: Place.objects.annotate(place=Window(RowNumber(), order_by="name")),
        "window functions, which would be computed separately for each batch",
    ),
    "filtered window": (
        lambda: Place.objects.filter(pk__gt=Window(RowNumber(), order_by="name")),
        "window functions, which would be computed separately for each batch",
    ),
    "distinct-on": (lambda: Place.objects.order_by("name").distinct("name"), "distinct() with fields"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_paged_is_refused_with_the_reason(kind):
    queryset, words = REFUSED[kind]

    with pytest.raises(BadQuerySet) as caught:
        prepared(queryset())

    assert str(caught.value).startswith("get_queryset() of migration 'testapp:0001' returned ")
    assert words in str(caught.value)


def test_window_functions_in_a_subquery_are_allowed():
    numbered = Place.objects.annotate(place=Window(RowNumber(), order_by="name"))

    assert prepared(Place.objects.filter(pk__in=numbered.values("pk"))).model is Place


def test_a_manager_will_do():
    assert prepared(Place.objects).model is Place


def test_a_queryset_without_a_database_is_put_on_the_migrations():
    assert prepared(Place.objects.all(), "other").db == "other"


def test_a_queryset_on_the_migrations_database_is_left_there():
    assert prepared(Place.objects.using("other"), "other").db == "other"


def test_a_queryset_on_another_database_is_refused():
    with pytest.raises(BadQuerySet, match="returned a queryset on database 'third'"):
        prepared(Place.objects.using("third"), "other")


def test_a_queryset_on_another_database_is_allowed_without_a_transaction():
    assert prepared(Place.objects.using("third"), "other", may_leave=True).db == "third"


def test_an_ordering_is_dropped_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        queryset = prepared(Place.objects.order_by("name"))

    assert queryset.query.order_by == ()
    assert "Dropped the ordering of the queryset of migration testapp:0001" in caplog.text


def test_no_ordering_is_no_warning(caplog):
    prepared(Place.objects.all())

    assert caplog.text == ""


def test_a_reversed_queryset_is_turned_round_again():
    assert str(prepared(Place.objects.order_by("name").reverse()).order_by("pk").query).endswith("ASC")


def test_the_users_own_locks_are_dropped():
    assert not prepared(Place.objects.select_for_update(skip_locked=True)).query.select_for_update


@pytest.mark.parametrize(
    ("queryset", "expected"),
    [
        (lambda: Place.objects.all(), True),
        (lambda: Place.objects.filter(name="a").exclude(n=1), True),
        (lambda: Place.objects.annotate(twice=F("n") * 2), True),
        (lambda: Restaurant.objects.all(), True),
        (lambda: Place.objects.distinct(), False),
        (lambda: Place.objects.annotate(people=Count("person")), False),
        (lambda: Person.objects.filter(home__name="a"), False),
        (lambda: Place.objects.filter(tag__name="a"), False),
        (lambda: Diner.objects.filter(name="a"), False),
    ],
    ids=[
        "all",
        "filter",
        "annotation",
        "inherited",
        "distinct",
        "group-by",
        "relation",
        "many-to-many",
        "parent-field",
    ],
)
def test_a_queryset_is_locked_directly_unless_it_holds_other_rows(server_alias, queryset, expected):
    assert can_lock_directly(queryset().using(server_alias)) == expected


@pytest.mark.parametrize(
    ("server_alias", "expected"),
    [("postgresql", True), ("mariadb", False), ("mysql", True)],
    indirect=["server_alias"],
)
def test_related_rows_are_left_unlocked_where_the_engine_can_tell_them_apart(server_alias, expected):
    assert can_lock_directly(Person.objects.using(server_alias).select_related("home")) == expected


@pytest.mark.parametrize(
    ("queryset", "expected"),
    [
        (lambda: Place.objects.filter(n=1), False),
        (lambda: Profile.objects.filter(place_id=1), False),
        (lambda: Place.objects.filter(tag__name="a"), True),
        (lambda: Place.objects.extra(tables=["testapp_tag"]), True),
        (lambda: Place.objects.annotate(part=Several("name", output_field=CharField())), True),
    ],
    ids=["own-column", "own-foreign-key", "many-to-many", "extra-table", "set-returning"],
)
def test_a_join_is_seen(queryset, expected):
    assert is_joined(queryset()) == expected
