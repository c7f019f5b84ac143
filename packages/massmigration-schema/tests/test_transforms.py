import threading

import pytest
from django.db import DatabaseError, connections, migrations, models
from django.db.models import Case, Count, Exists, F, OuterRef, Sum, Value, When, Window
from django.db.models.expressions import RawSQL
from django.db.models.functions import Cast, Coalesce, Concat, Length, Now, Random, Upper

from massmigration import api
from massmigration.exceptions import BadMigrationFile
from massmigration.states import Status
from massmigration_schema import Online
from massmigration_schema.exceptions import RefusedForReasons
from testsupport.shop import Change
from testsupport.threads import PATIENCE, in_thread

TITLE = migrations.AddField("campaign", "title", models.CharField(max_length=600, default=""))
SHORT = migrations.AddField("campaign", "short", models.CharField(max_length=8, null=True))
RATIO = migrations.AddField("campaign", "ratio", models.IntegerField(null=True))
NAMES = Concat("name", Value(" 100 % 'sure': "), Upper("objective"), output_field=models.TextField())
SQL_OF_NAMES = "CONCAT(name, ' 100 % ''sure'': ', UPPER(objective))"


def test_the_values_are_computed_from_the_old_row(shop, start):
    shop.fill(5)
    gone = migrations.RemoveField("campaign", "objective")

    change, waiting = start(TITLE, gone, transforms={"title": NAMES})

    assert waiting.status is Status.WAITING
    shop.execute("UPDATE campaign SET objective = 'later' WHERE name = 'name 1'")
    shop.fill(1)
    api.proceed(change.key, shop.db_alias)
    assert start.wait(change).status is Status.APPLIED
    found = {title for (title,) in shop.execute("SELECT title FROM campaign")}
    assert found == {"name 1 100 % 'sure': LATER", *(f"name {number} 100 % 'sure': O" for number in (0, 2, 3, 4))}


EXPRESSIONS = {
    "a number of a text": (RATIO, "ratio", Length("name"), "CHAR_LENGTH(name)"),
    "a number of numbers": (RATIO, "ratio", F("budget") * 2 + F("id"), "budget * 2 + id"),
    "a text of a number": (TITLE, "title", Cast("id", models.CharField(max_length=20)), None),
    "a choice": (
        RATIO,
        "ratio",
        Case(When(budget__gt=2, then=Value(1)), default=Value(0)),
        "CASE WHEN budget > 2 THEN 1 ELSE 0 END",
    ),
    "of a field that exists": (
        migrations.AlterField("campaign", "name", models.CharField(max_length=300)),
        "name",
        Upper("name"),
        "UPPER(name)",
    ),
    "a foreign key without a constraint": (
        migrations.AddField(
            "campaign",
            "payer",
            models.ForeignKey("shop.Account", models.PROTECT, null=True, db_constraint=False, related_name="+"),
        ),
        "payer",
        Coalesce(F("account"), Value(7)),
        "COALESCE(account_id, 7)",
    ),
}


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_copy_triggers_resync_and_verification_use_the_same_expression(shop, case):
    operation, name, expression, sql = EXPRESSIONS[case]
    shop.fill(4)
    sql = sql or ("id::text" if shop.is_postgresql else "CAST(id AS CHAR)")
    change = Change(shop, operation, transforms={name: expression})
    assert change.catalog.refusals_of(change.derivation) == []
    column = "payer_id" if name == "payer" else name
    change.prepare()

    change.copy()
    shop.execute("UPDATE campaign SET budget = 1, name = 'changed' WHERE name = 'name 3'")
    shop.fill(1)

    assert change.wrong(**{column: sql}) == []
    assert change.verify() == 0
    first = shop.execute("SELECT MIN(id) FROM campaign")[0][0]
    shop.execute(f"UPDATE {change.shadow} SET {column} = '9' WHERE id = {first}")
    change.resync(first)
    assert change.wrong(**{column: sql}) == []


def test_writers_during_the_copy_do_not_get_lost(shop):
    shop.fill_many(300)
    change = Change(shop, TITLE, transforms={"title": NAMES}).prepare()
    stop = threading.Event()

    def write():
        count = 0
        while not stop.is_set() or count < 50:
            count += 1
            with connections[shop.db_alias].cursor() as cursor:
                cursor.execute("UPDATE campaign SET objective = %s WHERE id = %s", [f"w{count}", count % 300 + 1])
                cursor.execute("DELETE FROM campaign WHERE id = %s", [count % 50 * 5 + 3])
                cursor.execute("UPDATE campaign SET id = id + 1000 WHERE id = %s", [count % 50 * 5 + 4])
        return count

    writer = in_thread(write)
    for first in range(1, 300, 20):
        change.copy(first, first + 19)
    stop.set()
    assert writer.result(PATIENCE) >= 50
    change.settle()

    assert change.wrong(title=SQL_OF_NAMES) == []
    assert change.verify() == 0


def test_a_value_that_does_not_fit_is_logged_and_does_not_fail_the_application(shop):
    shop.fill(2)
    change = Change(shop, SHORT, transforms={"short": F("name")}).prepare()
    change.copy()

    shop.execute("UPDATE campaign SET name = 'much longer' WHERE name = 'name 1'")

    ((key,),) = shop.execute("SELECT id FROM campaign WHERE name = 'much longer'")
    assert [logged for logged, _ in change.logged()] == [key]
    with pytest.raises(DatabaseError):
        change.resync(key)


def test_an_expression_that_fails_does_not_fail_the_application(shop):
    shop.fill(2)
    change = Change(shop, RATIO, transforms={"ratio": 10 / F("budget")}).prepare()

    shop.execute("UPDATE campaign SET budget = 0")
    shop.execute("INSERT INTO campaign (name, objective, description, budget, data) VALUES ('n', 'o', 'd', 0, '{}')")

    if not shop.is_postgresql:
        # There, an update of a row that is not copied does not compute anything.
        assert [why for _, why in change.logged()] == ["Division by 0"]
    else:
        assert {why for _, why in change.logged()} == {"division by zero"}


def test_a_difference_is_found(shop):
    shop.fill(3)
    change = Change(shop, TITLE, transforms={"title": NAMES}).prepare()
    change.copy()

    shop.execute(f"UPDATE {change.shadow} SET title = 'wrong' WHERE name = 'name 1'")

    assert change.verify() == 1


REFUSED = {
    "an unknown field": ({"title": F("nothing")}, r"Cannot resolve keyword 'nothing' into field"),
    "a field of another table": ({"title": F("account__name")}, "Joined field references are not permitted"),
    "a field that is not there": ({"other": F("name")}, r"The transform of 'other' is for no field .* has account,"),
    "a key": ({"id": F("id") + 1}, "The transform of 'id' is for no field"),
    "an aggregate": ({"title": Count("name")}, r"uses other rows \(Count\)"),
    "a sum in an expression": ({"title": F("budget") + Sum("budget")}, r"uses other rows"),
    "a window": ({"title": Window(Count("name"))}, r"uses other rows \(Window\)"),
    "now": ({"title": Now()}, r"has another value each time \(Now\)"),
    "random": ({"title": Random()}, r"has another value each time \(Random\)"),
    "raw SQL": ({"title": RawSQL("UPPER(name)", ())}, r"has raw SQL, in which a trigger cannot name the row"),
    "two things": ({"title": F("nothing"), "other": F("name")}, r"(?s)nothing.*other|other.*nothing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_trigger_can_compute_is_refused(shop, case):
    transforms, words = REFUSED[case]

    with pytest.raises(RefusedForReasons, match=words) as raised:
        shop.derive(TITLE, transforms=transforms).required_plan()

    assert {each.code for each in raised.value.reasons} == {"online.transform"}


def test_a_subquery_is_refused(shop):
    notes = shop.model("Note")._base_manager.filter(campaign=OuterRef("pk"))
    found = shop.derive(TITLE, transforms={"title": Exists(notes)})

    with pytest.raises(RefusedForReasons, match=r"has a subquery \(Exists\)"):
        found.required_plan()


def test_what_the_server_computes_anew_each_time_is_refused(shop, start):
    before = shop.catalog.orphans(), shop.definition()
    name = "gen_random_uuid" if shop.is_postgresql else "UUID"
    function = models.Func(function=name, output_field=models.TextField())

    with pytest.raises(RefusedForReasons, match=r"online\.transform: The transform for the column 'title' cannot be"):
        start(TITLE, transforms={"title": function})

    assert (shop.catalog.orphans(), shop.definition()) == before


def test_a_new_field_needs_a_default_until_its_transform_is_computed(shop):
    likes = migrations.AddField("campaign", "likes", models.IntegerField())

    with pytest.raises(RefusedForReasons, match="Give it one, with preserve_default=False") as raised:
        shop.derive(likes, transforms={"likes": Length("name")}).required_plan()

    assert raised.value.code == "online.default"


def test_a_new_foreign_key_with_values_is_refused(shop):
    payer = migrations.AddField(
        "campaign", "payer", models.ForeignKey("shop.Account", models.PROTECT, null=True, related_name="+")
    )

    with pytest.raises(RefusedForReasons) as raised:
        shop.derive(payer, transforms={"payer": F("account")}).required_plan()

    assert raised.value.code == "online.new_foreign_key"


def test_a_transformed_field_cannot_be_reverted(shop):
    with pytest.raises(RefusedForReasons, match="has a transform, so that its values cannot be written back") as raised:
        shop.derive(TITLE, transforms={"name": Upper("name")}, reverse_sync=True).required_plan()

    assert raised.value.code == "online.revert"
    assert shop.derive(TITLE, transforms={"title": NAMES}, reverse_sync=True).required_plan()


def test_another_expression_is_another_plan(shop):
    one, two = (
        shop.derive(TITLE, transforms={"title": expression}).required_plan()
        for expression in (Upper("name"), Upper("objective"))
    )

    assert one.fingerprint != two.fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transforms": {"title": "name"}}, "it must be a dict of expressions, such as"),
        ({"transforms": [F("name")]}, "it must be a dict of expressions"),
        ({"transforms": {"title": F("name")}, "strategy": "direct"}, "transforms write every row"),
    ],
)
def test_a_wrong_option_is_refused_when_the_file_is_loaded(options, words):
    with pytest.raises(BadMigrationFile, match=words):
        Online(**options)


def test_a_large_table_is_copied_even_if_every_operation_is_instant(shop):
    shop.fill(3)
    migration = shop.migration(SHORT, transforms={"short": F("name")}, direct_up_to=2)

    with pytest.raises(Exception, match="Make it online"):
        shop.apply(migration)


def test_migrate_writes_the_values_of_a_small_table(shop):
    shop.fill(3)
    gone = migrations.RemoveField("campaign", "objective")
    renamed = migrations.RenameField("campaign", "name", "label")

    shop.apply(shop.migration(TITLE, gone, renamed, transforms={"title": NAMES}))

    found = dict(shop.execute("SELECT label, title FROM campaign"))
    assert found == {f"name {number}": f"name {number} 100 % 'sure': O" for number in range(3)}


def test_migrate_refuses_the_same_transforms(shop):
    shop.fill(3)

    with pytest.raises(RefusedForReasons, match="Cannot resolve keyword 'nothing'"):
        shop.apply(shop.migration(TITLE, transforms={"title": F("nothing")}))

    assert "title" not in shop.definition().columns


def test_sqlmigrate_names_the_transforms(shop):
    editor = shop.apply(shop.migration(TITLE, transforms={"title": NAMES}), collect_sql=True)

    assert "-- After the operations, every row gets title." in editor.collected_sql
