import pytest

from massmigration import api
from massmigration.exceptions import BadMigrationFile
from massmigration.loader import store
from massmigration.states import Status
from massmigration_schema import AddColumn, AddIndex, DropColumn, Online, OnlineTable, RenameColumn, ledger
from massmigration_schema.exceptions import Refused, RefusedForReasons
from testsupport.shop import executed
from testsupport.threads import PATIENCE


def table(name="0005_campaign", **attributes):
    return type("Migration", (OnlineTable,), {"table": "campaign", **attributes})("shop", name)


@pytest.fixture
def run(shop, django_db_blocker):
    """A function that launches a change of a table without a model, and waits until it ends or waits."""
    scopes = []

    def launch(**attributes):
        change = table(**attributes)
        scopes.append(store.registered(change))
        scopes[-1].__enter__()
        api.launch(change.key, shop.db_alias)
        return change, wait(change)

    def wait(change):
        return api.wait(change.key, shop.db_alias, timeout=PATIENCE)

    launch.wait = wait
    yield launch
    for scope in reversed(scopes):
        scope.__exit__(None, None, None)


LIKES = "ADD COLUMN like_count int NOT NULL DEFAULT 7"
RENAME = "RENAME COLUMN name TO display_name"


def refused(shop, **attributes):
    found = table(**attributes).derivation(shop.db_alias)
    with pytest.raises(RefusedForReasons) as raised:
        found.required_plan()
    return raised.value


def columns(shop, **attributes):
    plan = table(**attributes).derivation(shop.db_alias).required_plan()
    return {column.name: column.source for column in plan.columns}


def test_a_change_by_clauses_from_the_start_to_the_cleanup(shop, run):
    shop.fill(20)
    children = shop.definition("shop_note").foreign_keys
    own = shop.definition().foreign_keys

    change, waiting = run(alter=[LIKES, RENAME, "DROP COLUMN description"])

    assert waiting.status is Status.WAITING
    shop.execute("UPDATE campaign SET name = 'later' WHERE name = 'name 3'")
    shop.execute("DELETE FROM campaign WHERE name = 'name 4'")
    assert change.verify(shop.db_alias) == 0
    api.proceed(change.key, shop.db_alias)
    assert run.wait(change).status is Status.APPLIED
    found = {name for (name,) in shop.execute("SELECT display_name FROM campaign WHERE like_count = 7")}
    assert found == {"later", *(f"name {number}" for number in range(20) if number not in (3, 4))}
    assert "description" not in shop.definition().columns
    change.clean_up(shop.db_alias, "code:test")
    assert shop.catalog.orphans() == []
    assert shop.definition("shop_note").foreign_keys == children
    assert shop.definition().foreign_keys == own


def test_a_builder_gives_the_same_plan(shop):
    by_clauses = columns(shop, alter=[LIKES, RENAME, "DROP COLUMN post"])

    by_builder = columns(
        shop,
        changes=[
            AddColumn("like_count", "int NOT NULL DEFAULT 7"),
            RenameColumn("name", "display_name"),
            DropColumn("post"),
            AddIndex("by_budget", ["budget", "goal"]),
        ],
    )

    assert by_builder == by_clauses
    assert by_builder["display_name"] == "name"
    assert not {"like_count", "post"} & set(by_builder)


def test_an_index_is_made(shop, run):
    shop.fill(2)

    run(changes=[AddIndex("by_budget", ["budget"], is_unique=True)], online=Online(cutover="auto"))

    found = shop.definition()
    assert "by_budget" in {*found.indexes, *found.constraints}


def test_a_trial_leaves_nothing(shop):
    before = shop.definition(), shop.catalog.orphans()

    columns(shop, alter=[LIKES])
    refused(shop, alter=["DROP COLUMN nothing"])

    assert (shop.definition(), shop.catalog.orphans()) == before


def test_the_details_of_a_change_that_has_not_begun_are_shown_without_a_trial(shop):
    with executed(shop.db_alias) as statements:
        found = {detail.label: detail.value for detail in table(alter=[LIKES]).get_details(shop.db_alias)}

    assert found["Table"] == "campaign"
    assert found["Statements, executed on the new table"].endswith(LIKES)
    assert not [sql for sql in statements if not sql.startswith("SELECT")]


def test_the_details_show_the_statements(shop, run):
    shop.fill(1)
    change, _ = run(alter=[LIKES])

    found = {detail.label: detail.value for detail in change.get_details(shop.db_alias)}

    assert found["Statements, executed on the new table"] == f"ALTER TABLE campaign {LIKES}"
    assert found["Rows in the change log"] == 0


def test_two_columns_swap_their_names_by_three_clauses(shop):
    found = columns(
        shop,
        alter=[
            "RENAME COLUMN name TO other",
            "RENAME COLUMN description TO name",
            "RENAME COLUMN other TO description",
        ],
    )

    assert (found["name"], found["description"]) == ("description", "name")


def test_a_column_that_is_dropped_and_made_again_is_new(shop):
    found = columns(shop, alter=["DROP COLUMN description", "ADD COLUMN description text NULL"])

    assert "description" not in found


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_a_rename_by_change_is_recognized(shop):
    found = columns(shop, alter=["CHANGE name display_name varchar(300) NOT NULL", "CHANGE post post varchar(99) NULL"])

    assert (found["display_name"], found["post"]) == ("name", "post")


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
@pytest.mark.parametrize(
    "clause",
    [
        "RENAME COLUMN name TO description, RENAME COLUMN description TO name",
        "RENAME COLUMN name TO a, RENAME COLUMN post TO b",
        "RENAME COLUMN name TO description, RENAME COLUMN description TO other",
        "RENAME COLUMN name TO display_name, DROP COLUMN post",
    ],
)
def test_a_rename_that_is_not_clear_is_refused(shop, clause):
    error = refused(shop, alter=[clause])

    assert error.code == "online.rename"
    assert "Write one clause for each rename" in str(error)


def test_renames_may_be_given(shop):
    found = columns(shop, alter=["ADD COLUMN label varchar(255) NULL", "DROP COLUMN post"], renames={"post": "label"})

    assert found["label"] == "post"


def definition(shop, key="id", extra=""):
    number = "integer GENERATED BY DEFAULT AS IDENTITY" if shop.is_postgresql else "integer AUTO_INCREMENT NOT NULL"
    return (
        f"CREATE TABLE campaign ({key} {number} PRIMARY KEY, name varchar(300) NOT NULL, "
        f"label varchar(255) NOT NULL, hits integer NOT NULL DEFAULT 5{extra});"
    )


def test_a_change_by_a_definition(shop, run):
    shop.fill(20)
    before = dict(shop.execute("SELECT id, description FROM campaign"))

    change, waiting = run(
        definition=definition(shop),
        indexes=["CREATE INDEX by_label ON campaign (label, hits)"],
        renames={"description": "label"},
    )

    assert waiting.status is Status.WAITING
    api.proceed(change.key, shop.db_alias)
    assert run.wait(change).status is Status.APPLIED
    assert dict(shop.execute("SELECT id, label FROM campaign WHERE hits = 5")) == before
    assert list(shop.definition().columns) == ["id", "name", "label", "hits"]
    assert "by_label" in shop.definition().indexes
    shop.execute("INSERT INTO campaign (name, label) VALUES ('new', 'new')")
    assert shop.execute("SELECT max(id) FROM campaign") == [(max(before) + 1,)]


def test_columns_of_a_definition_are_common_or_renamed(shop):
    found = columns(shop, definition=definition(shop), renames={"description": "label"})

    assert found == {"id": "id", "label": "description", "name": "name"}


def test_columns_can_be_limited(shop):
    found = columns(
        shop, alter=[LIKES], origin_columns=["id", "name", "post", "objective", "budget", "data", "description"]
    )

    assert "goal" not in found
    assert {"id", "name", "post"} <= set(found)


REFUSED = {
    "an unknown table": ({"table": "nothing", "alter": [LIKES]}, "online.table", "There is no table 'nothing'"),
    "a clause that fails": ({"alter": ["DROP COLUMN nothing"]}, "online.clause", "DROP COLUMN nothing failed"),
    "NOT NULL without a default": ({"alter": ["ADD COLUMN x int NOT NULL"]}, "online.default", "x is NOT NULL"),
    "a renamed column that is not there": (
        {"alter": [LIKES], "renames": {"nothing": "like_count"}},
        "online.rename",
        "renames has 'nothing': 'like_count'",
    ),
    "unknown columns": ({"alter": [LIKES], "dest_columns": ["id", "other"]}, "online.columns", "names other"),
    "a way back without a value": (
        {"alter": ["DROP COLUMN objective"], "online": Online(reverse_sync=True)},
        "online.revert",
        "objective is removed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused(shop, case):
    attributes, code, words = REFUSED[case]

    error = refused(shop, **attributes)

    assert error.code == code
    assert words in str(error)


def test_another_key_is_refused(shop):
    error = refused(shop, definition=definition(shop, key="number"))

    assert error.code == "online.key"


def test_a_table_without_a_primary_key_is_refused(shop):
    shop.execute("CREATE TABLE shop_other (name varchar(20))")

    error = refused(shop, table="shop_other", alter=["ADD COLUMN x int NULL"])

    assert error.code == "online.key"
    assert "The primary key of 'shop_other' is none; allowed: SmallIntegerField, " in str(error)


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("code varchar(20) PRIMARY KEY", "('a', 1), ('b', 2), ('é', 3)"),
        ("code varchar(20) NOT NULL", "('a', 1), ('a', 2), ('b', 1)"),
        ("code numeric(9, 2) PRIMARY KEY", "(1.5, 1), (2, 2), (-3.25, 3)"),
    ],
    ids=["text", "composite", "decimal"],
)
def test_other_keys_are_copied(shop, run, key, rows):
    several = "" if "PRIMARY" in key else ", PRIMARY KEY (code, number)"
    shop.execute(f"CREATE TABLE shop_other ({key}, number int NOT NULL, note varchar(9){several})")
    shop.execute(f"INSERT INTO shop_other (code, number) VALUES {rows}")
    before = set(shop.execute("SELECT code, number FROM shop_other"))

    _, applied = run(
        table="shop_other",
        alter=["ADD COLUMN hits int NOT NULL DEFAULT 5", "RENAME COLUMN code TO sign"],
        online=Online(cutover="auto"),
    )

    assert applied.status is Status.APPLIED, applied.last_error
    assert set(shop.execute("SELECT sign, number FROM shop_other WHERE hits = 5")) == before


@pytest.mark.parametrize("kind", ["varchar(30)", "double precision"])
def test_a_key_of_another_type_is_refused(shop, kind):
    alter = "ALTER COLUMN id TYPE" if shop.is_postgresql else "MODIFY id"
    shop.execute("CREATE TABLE shop_other (id int PRIMARY KEY)")

    error = refused(shop, table="shop_other", alter=[f"{alter} {kind}"])

    assert error.code == "online.key"
    assert "a column of the key, changes; allowed: other integers" in str(error)


def test_an_integer_key_may_become_larger(shop, run):
    shop.execute("CREATE TABLE shop_other (id int PRIMARY KEY)")
    shop.execute("INSERT INTO shop_other VALUES (1), (7)")
    alter = "ALTER COLUMN id TYPE bigint" if shop.is_postgresql else "MODIFY id bigint NOT NULL"

    _, applied = run(table="shop_other", alter=[alter], online=Online(cutover="auto"))

    assert applied.status is Status.APPLIED, applied.last_error
    shop.execute("INSERT INTO shop_other VALUES (3000000000)")


@pytest.mark.parametrize("server_alias", ["mariadb", "mysql"], indirect=True)
def test_another_storage_engine_is_refused(shop):
    shop.execute("CREATE TABLE shop_other (id int PRIMARY KEY)")

    error = refused(shop, table="shop_other", alter=["ENGINE = MyISAM"])

    assert error.code == "online.engine"


@pytest.mark.parametrize("server_alias", ["mysql"], indirect=True)
def test_a_check_constraint_that_would_lose_its_name_is_refused(shop, run):
    shop.execute("CREATE TABLE shop_other (id int PRIMARY KEY, hits int CHECK (hits > 0))")
    shop.execute("INSERT INTO shop_other VALUES (1, 2)")
    before = shop.catalog.checks("shop_other")
    _, applied = run(table="shop_other", alter=["ADD COLUMN x int NULL"], online=Online(cutover="auto"))
    assert applied.status is Status.APPLIED, applied.last_error
    assert shop.catalog.checks("shop_other") == before

    shop.execute("ALTER TABLE shop_other ADD CONSTRAINT named CHECK (hits < 9)")

    with pytest.raises(RefusedForReasons, match=r"has check constraints that the new table would have, too \(named\)"):
        run(table="shop_other", alter=["ADD COLUMN y int NULL"], name="0006_other")


@pytest.mark.parametrize("server_alias", ["postgresql"], indirect=True)
def test_another_kind_of_table_is_refused(shop):
    assert refused(shop, alter=["SET UNLOGGED"]).code == "online.temporary"
    assert refused(shop, alter=["INHERIT shop_account"]).code in ("online.inheritance", "online.clause")


def test_a_second_change_of_the_table_is_refused(shop, run):
    shop.fill(2)
    run(alter=[LIKES])

    with pytest.raises(RefusedForReasons, match="is being changed by 'shop:0005_campaign' already"):
        run(alter=[RENAME], name="0006_other")


def test_an_edited_file_does_not_continue(shop, run):
    shop.fill(2)
    run(alter=[LIKES])
    edited = table(alter=[LIKES, RENAME])

    with pytest.raises(Exception, match="began with another plan"):
        edited.check_action("proceed", shop.db_alias)


def test_an_abort_leaves_the_table_as_it_was(shop, run):
    shop.fill(2)
    before = shop.definition()
    change, _ = run(alter=[LIKES, RENAME])

    change.abort(shop.db_alias, "code:test")

    assert shop.definition() == before
    assert shop.catalog.orphans() == []
    assert ledger.get(shop.db_alias, change.key) is None


def test_a_change_can_be_reverted(shop, run):
    shop.fill(3)
    before = shop.definition()
    change, applied = run(alter=[LIKES, RENAME], online=Online(reverse_sync=True, cutover="auto"))
    assert applied.status is Status.APPLIED
    shop.execute("UPDATE campaign SET display_name = 'later' WHERE display_name = 'name 1'")

    change.revert(shop.db_alias, "code:test")

    assert shop.definition() == before
    assert {name for (name,) in shop.execute("SELECT name FROM campaign")} == {"name 0", "later", "name 2"}
    change.clean_up(shop.db_alias, "code:test")
    assert shop.catalog.orphans() == []


def test_a_clause_that_names_another_table_does_not_reach_it(shop):
    before = shop.definition("shop_note")

    for clause in ("RENAME TO shop_other", "RENAME shop_other", "SET SCHEMA public"):
        with pytest.raises(BadMigrationFile, match="The table keeps its name"):
            table(alter=[clause])

    assert shop.definition("shop_note") == before


BAD = {
    "alter and definition": (
        {"alter": [LIKES], "definition": "CREATE TABLE campaign (id int)"},
        "alter and definition",
    ),
    "nothing": ({}, "none of them; allowed: alter, changes or both, or definition alone"),
    "indexes without a definition": ({"alter": [LIKES], "indexes": ["CREATE INDEX a ON campaign (b)"]}, "AddIndex"),
    "no list": ({"alter": LIKES}, "it must be a list"),
    "two statements": ({"alter": ["ADD COLUMN x int; DROP TABLE campaign"]}, "one clause of ALTER TABLE"),
    "two statements in a type": ({"changes": [AddColumn("x", "int; DROP TABLE campaign")]}, "one statement"),
    "a quotation mark in a name": ({"changes": [DropColumn('x" CASCADE; DROP TABLE "y')]}, "no quotation marks"),
    "a backtick in a name": ({"changes": [RenameColumn("a", "b`, DROP COLUMN `c")]}, "no quotation marks"),
    "a quotation mark in an index": ({"changes": [AddIndex("i", ['a") ; DROP TABLE "b'])]}, "no quotation marks"),
    "a quotation mark in the table": ({"table": 'a"b', "alter": [LIKES]}, "no quotation marks"),
    "no table": ({"table": "", "alter": [LIKES]}, "a name of a table"),
    "a quotation mark in a new name": ({"alter": [LIKES], "renames": {"a": "b`c"}}, "no quotation marks"),
    "two columns of one name": ({"alter": [LIKES], "renames": {"a": "c", "b": "c"}}, "two columns one new name"),
    "a foreign key": ({"alter": ["ADD FOREIGN KEY (a) REFERENCES b (c)"]}, "carried over as they are"),
    "another table": ({"definition": "CREATE TABLE other (id int)"}, "the name of the table, 'campaign'"),
    "no definition": ({"definition": "SELECT 1"}, "it must begin with CREATE TABLE"),
    "an index of another table": (
        {"definition": "CREATE TABLE campaign (id int)", "indexes": ["CREATE INDEX a ON other (b)"]},
        "it must be CREATE INDEX … ON the table",
    ),
    "transforms": ({"alter": [LIKES], "online": Online(strategy="shadow")}, "which need a model"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_when_the_file_is_loaded(case):
    attributes, words = BAD[case]

    with pytest.raises(BadMigrationFile, match=words):
        table(**attributes)


def test_a_semicolon_in_a_text_is_no_second_statement():
    assert table(alter=["ADD COLUMN x varchar(9) NOT NULL DEFAULT 'a;b'"]).source.changes


@pytest.mark.django_db
def test_a_database_without_online_changes_is_refused():
    with pytest.raises(Refused, match="cannot be changed online"):
        table(alter=[LIKES]).derivation("default")
