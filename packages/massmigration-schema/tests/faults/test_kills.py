"""A process that dies after any statement of a step. The next one makes it good."""

import pytest

from massmigration_schema.definition import differences
from testsupport.shop import TABLES
from testsupport.shop_kills import OPERATIONS, kinds, persistently, trials


@pytest.fixture(scope="module")
def plain():
    """The definitions after an ordinary `migrate`, by database."""
    return {}


def compare_with_plain(plain):
    def check(making):
        shop = making.shop
        if shop.db_alias not in plain:
            found = shop.definition(), shop.definition("shop_note")
            making.forget()
            shop.drop()
            shop.state = type(shop.state)()
            shop.migrate(*TABLES, *OPERATIONS)
            plain[shop.db_alias] = shop.definition(), shop.definition("shop_note")
        else:
            found = shop.definition(), shop.definition("shop_note")
        listed = [*differences(found[0], plain[shop.db_alias][0]), *differences(found[1], plain[shop.db_alias][1])]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    return check


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_prepare(shop, plain):
    def check(making):
        making.copy()
        making.make_ready()
        wrong = making.direct.wrong(name="name", post="post", about="description")
        logged = making.direct.logged()
        making.cut_over()
        making.clean_up()
        return wrong + logged + compare_with_plain(plain)(making)

    count, found = trials(shop, "prepare", before=[], after=["prepare"], check=check)

    assert found == {}
    assert count >= 8


@pytest.mark.slow
def test_a_process_that_dies_in_the_cutover(shop, plain):
    count, found = trials(
        shop,
        "cut_over",
        before=["prepare", "copy", "make_ready"],
        after=["cut_over", "clean_up"],
        check=compare_with_plain(plain),
    )

    assert found == {}
    assert count >= 8


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_the_cleanup(shop, plain):
    count, found = trials(
        shop,
        "clean_up",
        before=["prepare", "copy", "make_ready", "cut_over"],
        after=["clean_up"],
        check=compare_with_plain(plain),
    )

    assert found == {}
    assert count >= 2


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_a_cutover_that_can_be_reverted(shop):
    count, found = trials(
        shop,
        "cut_over",
        before=["prepare", "copy", "make_ready"],
        after=["cut_over", "write", "revert", "clean_up"],
        check=compare_with_before,
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 10


@pytest.mark.slow
def test_a_process_that_dies_in_a_revert(shop):
    count, found = trials(
        shop,
        "revert",
        before=["prepare", "copy", "make_ready", "cut_over", "write"],
        after=["revert", "clean_up"],
        check=compare_with_before,
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 5


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_the_cleanup_of_a_change_that_could_be_reverted(shop, plain):
    count, found = trials(
        shop,
        "clean_up",
        before=["prepare", "copy", "make_ready", "cut_over", "write"],
        after=["clean_up"],
        check=compare_with_plain(plain),
        reverse_sync=True,
    )

    assert found == {}
    assert count >= 2


def compare_with_before(making):
    """Return what differs from the definitions and rows before the change, and what is left of it."""
    shop = making.shop
    listed = [
        *differences(shop.definition(), making.before[0]),
        *differences(shop.definition("shop_note"), making.before[1]),
    ]
    rows = sorted(shop.execute("SELECT name, description FROM campaign"))
    wrong = [] if rows == [("name 0", "d"), ("name 1", "written"), ("name 2", "d")] else [f"rows: {rows}"]
    return kinds(listed) + wrong + [str(orphan) for orphan in shop.catalog.orphans()]


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_process_that_dies_in_an_abort(shop):
    def check(making):
        shop = making.shop
        listed = [
            *differences(shop.definition(), making.before[0]),
            *differences(shop.definition("shop_note"), making.before[1]),
        ]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    count, found = trials(shop, "abort", before=["prepare", "copy", "make_ready"], after=["abort"], check=check)

    assert found == {}
    assert count >= 3


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_change_whose_cutover_died_can_be_aborted_or_is_swapped(shop):
    def check(making):
        shop, alias = making.shop, making.shop.db_alias
        if making.change.swap(alias).is_swapped():
            persistently(making.cut_over)
            return [] if "about" in shop.definition().columns else ["not swapped"]
        persistently(making.abort)
        listed = [
            *differences(shop.definition(), making.before[0]),
            *differences(shop.definition("shop_note"), making.before[1]),
        ]
        return kinds(listed) + [str(orphan) for orphan in shop.catalog.orphans()]

    count, found = trials(shop, "cut_over", before=["prepare", "copy", "make_ready"], after=[], check=check)

    assert found == {}
    assert count >= 8
