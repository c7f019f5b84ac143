import datetime as dt
import uuid

import pytest
from django.db import migrations, models
from django.utils import timezone

from massmigration_schema.exceptions import RefusedForReasons
from massmigration_schema.plan import ChangePlan, MappedColumn
from testsupport.shop import TABLES, Shop, check

TEXT = models.CharField


@pytest.fixture
def shop(server_alias):
    """The models of the shop, without tables: nothing is executed."""
    made = Shop(server_alias)
    made.declare(*TABLES)
    return made


def alter(name, field):
    return migrations.AlterField("campaign", name, field)


def add(name, field):
    return migrations.AddField("campaign", name, field)


def columns(derivation):
    return {column.name: column for column in derivation.required_plan().columns}


def codes(derivation):
    return [refusal.code for refusal in derivation.refusals]


def test_a_renamed_column_keeps_its_values(shop):
    found = columns(
        shop.derive(
            migrations.RenameField("campaign", "name", "title"), migrations.RenameField("campaign", "title", "heading")
        )
    )

    assert found["heading"] == MappedColumn(name="heading", source="name")
    assert "name" not in found
    assert "title" not in found


def test_a_column_renamed_by_db_column_keeps_its_values(shop):
    found = columns(shop.derive(alter("name", TEXT(max_length=255, db_column="Title"))))

    assert found["Title"].source == "name"


def test_a_removed_column_and_one_added_under_its_name_are_different(shop):
    found = columns(
        shop.derive(migrations.RemoveField("campaign", "post"), add("post", TEXT(max_length=9, default="x")))
    )

    assert found["post"] == MappedColumn(name="post", literal="'x'")


def test_two_columns_can_swap_their_names(shop):
    rename = migrations.RenameField

    found = columns(
        shop.derive(
            rename("campaign", "name", "old"),
            rename("campaign", "description", "name"),
            rename("campaign", "old", "description"),
        )
    )

    assert (found["name"].source, found["description"].source) == ("description", "name")


@pytest.mark.parametrize(
    ("field", "literal"),
    [
        (models.IntegerField(default=7), "7"),
        (TEXT(max_length=20, default="100 % 'sure'"), None),
        (models.IntegerField(null=True), ""),
        (models.JSONField(default=dict), None),
        (models.DateField(default=dt.date(2020, 2, 3)), None),
    ],
)
def test_the_value_of_a_new_column_is_its_default(shop, field, literal):
    found = columns(shop.derive(add("extra", field)))

    if literal == "":
        assert "extra" not in found
        return
    value = found["extra"].literal
    assert literal is None or value == literal
    ((stored,),) = shop.execute("SELECT " + value.replace("%", "%%"), [])
    assert str(stored).replace('"', "") == str(field.get_default()).replace('"', "")


def test_null_becomes_the_default_of_a_column_that_becomes_not_null(shop):
    found = columns(shop.derive(alter("goal", models.DecimalField(max_digits=12, decimal_places=2, default=5))))

    assert found["goal"].source == "goal"
    assert found["goal"].literal.startswith("5")


def test_a_generated_column_is_left_to_the_database(shop):
    generated = pytest.importorskip("django.db.models", reason="GeneratedField is in Django 5.0").__dict__.get(
        "GeneratedField"
    )
    if generated is None:
        pytest.skip("GeneratedField is in Django 5.0")

    found = columns(
        shop.derive(
            add(
                "twice",
                generated(
                    expression=models.F("budget") * 2,
                    db_persist=True,
                    output_field=models.DecimalField(max_digits=14, decimal_places=2),
                ),
            )
        )
    )

    assert "twice" not in found


def test_a_conversion_that_the_database_does_not_do_by_itself_is_a_cast(shop):
    found = columns(shop.derive(alter("post", models.IntegerField(null=True))))

    assert found["post"].cast == "integer"
    assert found["name"].cast == ""


def test_a_plan_is_what_json_keeps_of_it(shop):
    plan = shop.derive(add("likes", models.IntegerField(default=7))).required_plan()

    assert ChangePlan.from_json(plan.to_json()) == plan
    assert plan.key == "shop:0002_change.schema"
    assert len(plan.tag) == 6


def test_another_default_is_another_plan(shop):
    one, two = (shop.derive(add("likes", models.IntegerField(default=number))).required_plan() for number in (7, 8))

    assert one.tag == two.tag
    assert one.fingerprint != two.fingerprint


NOT_LOSSY = {
    "nothing": alter("name", TEXT(max_length=255)),
    "longer": alter("name", TEXT(max_length=256)),
    "to text": alter("name", models.TextField()),
    "nullable": alter("name", TEXT(max_length=255, null=True)),
    "choices": alter("name", TEXT(max_length=255, choices=[("a", "A")])),
    "more digits": alter("budget", models.DecimalField(max_digits=14, decimal_places=3)),
    "big key": alter("id", models.BigAutoField(primary_key=True)),
    "index": alter("name", TEXT(max_length=255, db_index=True)),
    "a column of its own name": alter("unique_name", TEXT(max_length=255, null=True)),
    "rename": migrations.RenameField("campaign", "name", "title"),
    "remove": migrations.RemoveField("campaign", "post"),
    "add": add("likes", models.IntegerField(default=7)),
    "add a foreign key": add("payer", models.ForeignKey("shop.Account", models.PROTECT, null=True, related_name="+")),
    "add an index": migrations.AddIndex("campaign", models.Index(fields=["budget"], name="by_budget")),
    "remove a constraint": migrations.RemoveConstraint("campaign", "campaign_name"),
    "null with a default": alter("goal", models.DecimalField(max_digits=12, decimal_places=2, default=5)),
}
LOSSY = {
    "shorter": alter("name", TEXT(max_length=254)),
    "fewer digits": alter("budget", models.DecimalField(max_digits=12, decimal_places=3)),
    "smaller key": alter("id", models.SmallAutoField(primary_key=True)),
    "to a number": alter("post", models.IntegerField(null=True)),
    "not null": alter("goal", models.DecimalField(max_digits=12, decimal_places=2)),
    "unique": alter("post", TEXT(max_length=128, null=True, unique=True)),
    "index of a long text": migrations.AddIndex("campaign", models.Index(fields=["data"], name="by_data")),
    "positive": alter("post", models.PositiveIntegerField(null=True)),
    "unique together": migrations.AlterUniqueTogether("campaign", {("name", "post")}),
    "constraint": migrations.AddConstraint("campaign", check("positive", models.Q(budget__gte=0))),
    "a new unique": add("likes", models.IntegerField(default=7, unique=True)),
}


@pytest.mark.parametrize("operation", NOT_LOSSY.values(), ids=NOT_LOSSY)
def test_every_row_fits(shop, operation):
    shop.declare(add("unique_name", TEXT(max_length=255, null=True)))

    assert not shop.derive(operation).required_plan().is_lossy


@pytest.mark.parametrize("operation", LOSSY.values(), ids=LOSSY)
def test_a_row_may_not_fit(shop, operation):
    assert shop.derive(operation).required_plan().is_lossy


REFUSED = {
    "run python": (
        [migrations.RunPython(migrations.RunPython.noop)],
        "online.operation",
        "RunPython cannot be made online. Move it to a migration of its own; allowed: AddConstraint, AddField,",
    ),
    "create model": (
        [migrations.CreateModel("New", [("id", models.AutoField(primary_key=True))])],
        "online.operation",
        "CreateModel cannot be made online.",
    ),
    "two models": (
        [
            add("likes", models.IntegerField(null=True)),
            migrations.AddField("note", "likes", models.IntegerField(null=True)),
        ],
        "online.models",
        "Found changes of 2 models (campaign, note); allowed: 1 in a migration.",
    ),
    "no model": (
        [migrations.AlterModelOptions("campaign", {"verbose_name": "x"})],
        "online.models",
        "Found changes of 0 models (none); allowed: 1 in a migration.",
    ),
    "many-to-many": (
        [add("payers", models.ManyToManyField("shop.Account"))],
        "online.many_to_many",
        "payers is many-to-many, which is a table of its own. Use a migration of its own.",
    ),
    "no default": (
        [add("likes", models.IntegerField())],
        "online.default",
        "likes is NOT NULL and has no default for the rows that exist.",
    ),
    "another default each time": (
        [add("token", models.UUIDField(default=uuid.uuid4))],
        "online.default",
        (
            "The default of token is another value each time, and Django would write one of them to every row. "
            "Make the field"
            " nullable, and fill it with a mass migration."
        ),
    ),
    "the time": (
        [add("at", models.DateTimeField(default=timezone.now))],
        "online.default",
        "The default of at is another",
    ),
    "the date": (
        [add("at", models.DateField(auto_now_add=True))],
        "online.default",
        "The default of at is another value",
    ),
    "another key": (
        [
            alter("id", models.IntegerField()),
            add("number", models.AutoField(primary_key=True)),
        ],
        "online.key",
        "The primary key is replaced. The old and the new table must share it.",
    ),
    "a text as key": (
        [alter("id", models.CharField(max_length=20, primary_key=True))],
        "online.key",
        "The primary key id becomes varchar(20), and is integer",
    ),
    "a reference to itself": (
        [add("parent", models.ForeignKey("shop.Campaign", models.CASCADE, null=True))],
        "online.self_reference",
        "parent refers to the table itself: not supported yet.",
    ),
    "a foreign key over values": (
        [add("payer", models.ForeignKey("shop.Account", models.PROTECT, default=1, related_name="+"))],
        "online.new_foreign_key",
        (
            "AddField adds a foreign key to payer, which has values already. An online change does not support "
            "this yet: use"
            " db_constraint=False here, and add the foreign key later."
        ),
    ),
}


@pytest.mark.parametrize(("operations", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_made_online_is_refused(shop, operations, code, text):
    found = shop.derive(*operations)

    assert found.plan is None
    assert code in codes(found)
    assert any(str(refusal).startswith(text) for refusal in found.refusals)


def test_all_refusals_are_named(shop):
    found = shop.derive(add("likes", models.IntegerField()), add("payers", models.ManyToManyField("shop.Account")))

    assert codes(found) == ["online.many_to_many", "online.default"]
    with pytest.raises(RefusedForReasons, match=r"(?s)online\.many_to_many: payers.*online\.default: likes"):
        found.required_plan()


def test_a_rename_and_a_removal_are_warnings(shop):
    found = shop.derive(
        migrations.RenameField("campaign", "name", "title"),
        migrations.RemoveField("campaign", "post"),
        add("likes", models.IntegerField(default=7)),
    )

    assert found.refusals == []
    assert [warning.split(":")[0] for warning in found.warnings] == [
        "RenameField name -> title",
        "RemoveField post",
        "AddField likes",
    ]


def test_the_operations_do_not_change_the_state_that_they_begin_with(shop):
    shop.derive(migrations.RenameField("campaign", "name", "title"), migrations.RemoveField("campaign", "post"))

    names = [field.name for field in shop.model()._meta.local_fields]
    assert "name" in names
    assert "post" in names


def test_models_that_refer_to_the_table_may_be_referred_to_themselves(shop):
    shop.declare(
        migrations.CreateModel(
            "Other",
            [("id", models.AutoField(primary_key=True)), ("note", models.ForeignKey("shop.Note", models.CASCADE))],
        )
    )

    assert shop.derive(alter("id", models.BigAutoField(primary_key=True))).changes_key_type


def test_no_statement_is_executed(shop):
    from testsupport.shop import executed

    with executed(shop.db_alias) as statements:
        shop.derive(add("likes", models.IntegerField(default=7)), alter("name", TEXT(max_length=20)))

    assert statements == []


def test_operations_that_change_no_column_are_part_of_the_plan(shop):
    like = add("likes", models.IntegerField(default=7))
    index = migrations.AddIndex("campaign", models.Index(fields=["budget"], name="by_budget"))
    plans = [shop.derive(*operations).required_plan() for operations in ([like], [like, index], [index])]

    assert len({plan.fingerprint for plan in plans}) == 3


def test_the_order_in_a_set_does_not_change_the_plan(shop):
    class Reversed(set):
        def __iter__(self):
            return iter(sorted(super().__iter__(), reverse=True))

    names = {("name", "post"), ("goal", "post")}
    one, two = migrations.AlterUniqueTogether("campaign", names), migrations.AlterUniqueTogether("campaign", names)
    two.option_value = Reversed(names)

    assert shop.derive(one).required_plan().fingerprint == shop.derive(two).required_plan().fingerprint


def test_a_function_without_a_name_is_left_out_of_the_plan_s_fingerprint(shop):
    plans = [shop.derive(add("likes", models.IntegerField(default=lambda: 7))).required_plan() for _ in range(2)]

    assert plans[0].fingerprint == plans[1].fingerprint


def test_the_columns_that_keep_their_type_are_named(shop):
    (warning,) = shop.derive(alter("id", models.BigAutoField(primary_key=True))).warnings

    end = "ALTER COLUMN campaign_id TYPE bigint" if shop.is_postgresql else "MODIFY campaign_id bigint NOT NULL"
    assert warning.endswith(f": ALTER TABLE shop_note {end}")
    assert "The key becomes bigint, and columns of other tables that refer to it stay integer. Alter them " in warning


def test_there_is_no_such_warning_if_the_key_stays_or_nothing_refers_to_it(shop):
    assert shop.derive(alter("name", TEXT(max_length=300))).warnings == []
    shop.declare(migrations.DeleteModel("Note"))
    assert shop.derive(alter("id", models.BigAutoField(primary_key=True))).warnings == []
