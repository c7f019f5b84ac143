import json

import pytest

from massmigration_schema.definition import ColumnDefinition, Level, TableDefinition, differences, errors

ID = ColumnDefinition(type="integer", is_nullable=False, identity="sequence")
NAME = ColumnDefinition(type="text", is_nullable=True, default="'x'", collation="C", comment="a name")
TABLE = TableDefinition(
    columns={"id": ID, "name": NAME},
    constraints={"pk": "PRIMARY KEY (id)"},
    indexes={"by_name": "btree (name)"},
    foreign_keys={"fk": "FOREIGN KEY (name) REFERENCES other(name)"},
    incoming={"child.fk": "FOREIGN KEY (t_id) REFERENCES t(id)"},
    triggers={"t": "AFTER INSERT"},
    options={"comment": "a table"},
)


def changed(**parts):
    stored = TABLE.to_json()
    return TableDefinition.from_json({**stored, **parts})


def with_column(**attributes):
    return changed(
        columns={"id": TABLE.to_json()["columns"]["id"], "name": {**TABLE.to_json()["columns"]["name"], **attributes}}
    )


def codes(found, expected=TABLE):
    return [each.code for each in differences(found, expected)]


def test_a_definition_does_not_differ_from_what_json_keeps_of_it():
    assert differences(TableDefinition.from_json(json.loads(json.dumps(TABLE.to_json()))), TABLE) == []


def test_the_order_of_columns_is_not_compared():
    assert codes(changed(columns=dict(reversed(TABLE.to_json()["columns"].items())))) == []


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (with_column(type="integer"), "type"),
        (with_column(is_nullable=False), "nullability"),
        (with_column(default="'y'"), "default"),
        (with_column(generated="lower(name)"), "generated"),
        (with_column(identity="sequence"), "identity"),
        (with_column(collation="de_DE"), "collation"),
        (with_column(comment=""), "comment"),
        (changed(columns={"id": TABLE.to_json()["columns"]["id"]}), "missing_column"),
        (changed(constraints={}), "missing_constraint"),
        (changed(constraints={**TABLE.constraints, "u": "UNIQUE (name)"}), "extra_constraint"),
        (changed(indexes={}), "missing_index"),
        (changed(indexes={**TABLE.indexes, "i": "btree (id)"}), "extra_index"),
        (changed(indexes={"other": "btree (name)"}), "name"),
        (changed(foreign_keys={"fk": TABLE.foreign_keys["fk"] + " NOT VALID"}), "not_valid"),
        (changed(foreign_keys={}), "missing_foreign_key"),
        (changed(incoming={}), "missing_reference"),
        (changed(incoming={**TABLE.incoming, "x.fk": "FOREIGN KEY (x) REFERENCES t(id)"}), "extra_reference"),
        (changed(triggers={}), "missing_trigger"),
        (changed(triggers={**TABLE.triggers, "u": "AFTER UPDATE"}), "extra_trigger"),
        (changed(options={}), "option"),
    ],
)
def test_each_difference_has_a_code(found, code):
    assert codes(found) == [code]


def test_an_index_of_the_same_name_over_other_columns_is_missing():
    assert codes(changed(indexes={"by_name": "btree (id)"})) == ["missing_index", "extra_index"]


@pytest.mark.parametrize(
    ("column", "level"),
    [
        (ColumnDefinition(type="text", is_nullable=False), Level.ERROR),
        (ColumnDefinition(type="text", is_nullable=True), Level.WARNING),
        (ColumnDefinition(type="text", is_nullable=False, default="''"), Level.WARNING),
    ],
)
def test_an_extra_column_is_an_error_if_inserts_must_name_it(column, level):
    found = TableDefinition(columns={"id": ID, "extra": column})

    assert [each.level for each in differences(found, TableDefinition(columns={"id": ID}))] == [level]


def test_warnings_are_no_errors():
    assert errors(with_column(comment="", collation=""), TABLE) == []
    assert len(errors(with_column(comment="", type="integer"), TABLE)) == 1


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (with_column(type="integer"), "type: name is integer; expected text."),
        (with_column(is_nullable=False), "nullability: name is NOT NULL; expected NULL."),
        (
            changed(columns={"id": TABLE.to_json()["columns"]["id"]}),
            "missing_column: name is missing; expected text NULL DEFAULT 'x'.",
        ),
        (changed(indexes={**TABLE.indexes, "i": "btree (id)"}), "extra_index: i is btree (id), but is not expected."),
        (changed(indexes={"other": "btree (name)"}), "name: index over btree (name) is other; expected by_name."),
    ],
)
def test_a_difference_says_what_was_found_and_expected(found, text):
    assert [str(each) for each in differences(found, TABLE)] == [text]
