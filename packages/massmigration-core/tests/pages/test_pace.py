import html
import json

import pytest
from django.urls import reverse

from massmigration import api
from massmigration.models import Event, MigrationRecord
from massmigration.states import Status
from testsupport.factories import KEY, client_with, get, make, text_of

pytestmark = pytest.mark.parametrize("db_alias", ["default"], indirect=True, ids=["sqlite"])

FORM = {"max_workers": "2", "max_rows_per_second": "500", "throttles": "off"}


@pytest.fixture(autouse=True)
def migration(slugs, db_alias):
    make(db_alias, Status.RUNNING)


def post(client, **form):
    return client.post(reverse("massmigration_pace", args=[KEY, "default"]), form)


def test_changes_are_shown_before_they_are_made(client):
    response = post(client, **FORM)

    page = text_of(response)
    assert "Confirm the changes" in page
    assert "Maximum workers at the same time</dt><dd>default → <b>2</b>" in page
    assert "Throttles</dt><dd>on → <b>off</b>" in page
    assert MigrationRecord.objects.get().pace == {}


def test_confirmed_changes_are_made_with_an_event(client):
    response = post(client, **FORM, confirmed="yes", seen="{}")

    assert response.url == reverse("massmigration_detail", args=[KEY, "default"])
    assert MigrationRecord.objects.get().pace == {"max_workers": 2, "max_rows_per_second": 500, "throttles": False}
    event = Event.objects.get(verb="pace")
    assert (event.actor, event.source) == ("ann", "page")
    assert event.detail == "max_rows_per_second: default -> 500; max_workers: default -> 2; throttles: on -> off"


def test_changes_of_another_operator_are_not_overwritten(client):
    api.set_pace(KEY, max_workers=7, sends=False)

    response = post(client, **FORM, confirmed="yes", seen="{}")

    assert "the pace has changed since you opened the page" in text_of(response)
    assert MigrationRecord.objects.get().pace == {"max_workers": 7}


def test_a_value_that_is_not_allowed_is_refused_with_what_is(client):
    response = post(client, max_workers="none", throttles="on")

    assert "Found 'none' for max_workers; allowed: a number of at least 1" in html.unescape(text_of(response))
    assert MigrationRecord.objects.get().pace == {}


def test_the_form_shows_what_is_set_and_an_empty_field_resets_it(client):
    api.set_pace(KEY, max_workers=7, window="22:00-06:00", batch_duration=0.25, sends=False)

    page = get(client, "pace", KEY, "default").content.decode()
    seen = json.dumps(MigrationRecord.objects.get().pace, sort_keys=True)
    post(client, window="22:00-06:00", throttles="on", confirmed="yes", seen=seen)

    assert 'value="7"' in page
    assert 'value="22:00-06:00"' in page
    assert 'value="0.25"' in page
    assert MigrationRecord.objects.get().pace == {"window": "22:00:00-06:00:00"}


def test_a_viewer_sees_the_pace_and_cannot_change_it(db_alias):
    page = get(client_with("view"), "pace", KEY, "default").content.decode()

    assert "permission to control migrations" in page
    assert "Check the changes" not in page


def test_page_and_json_of_the_migration_show_the_pace_and_the_pause_of_everything(client):
    api.set_pace(KEY, max_workers=2, sends=False)
    api.pause_all(reason="an incident", actor="ben")

    page = text_of(get(client, "detail", KEY, "default"))
    found = get(client, "status", KEY, "default").json()
    listed = text_of(get(client, "manage"))

    assert '<span class="mm-code">max_workers 2</span>' in page
    assert "Everything is paused on this database." in page
    assert (found["pace"], found["is_all_paused"]) == ({"max_workers": 2}, True)
    assert "Everything is paused on default." in listed
    assert "by ben : an incident" in listed or "by ben: an incident" in listed


@pytest.mark.usefixtures("emptied")
def test_one_button_pauses_everything_and_one_resumes_it(client):
    page = get(client, "manage").content.decode()
    assert reverse("massmigration_everything", args=["pause-all"]) in page

    client.post(reverse("massmigration_everything", args=["pause-all"]), {"reason": "slow"})
    switch = api.paused_all()
    page = get(client, "manage").content.decode()
    client.post(reverse("massmigration_everything", args=["resume-all"]))

    assert (switch.changed_by, switch.reason) == ("ann", "slow")
    assert reverse("massmigration_everything", args=["resume-all"]) in page
    assert api.paused_all() is None


def test_another_verb_for_everything_is_not_found(client):
    assert client.post(reverse("massmigration_everything", args=["forget"])).status_code == 404
