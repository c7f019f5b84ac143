"""The authentication of deliveries. The keys are made here; Google's own library verifies the signatures."""

import base64
import hmac
import json
import time

import pytest
from django.test import Client, RequestFactory
from google.auth import exceptions

from massmigration.jobs import Job, JobKind
from massmigration.migrations import SimpleMigration
from massmigration_djangae import auth, views
from testsupport.cloudtasks import signing
from testsupport.cloudtasks.signing import ACCOUNT, Certificates, token
from testsupport.inline_migrations import register

URL = "https://example.com/massmigration/run/"
PATH = "/massmigration/run/"
JOB = Job(kind=JobKind.PLAN, key="testapp:0001_once", db_alias="default", attempt_id="0" * 32).dumps()
OPTIONS = {"project": "example", "location": "europe-west1", "url": URL, "service_account": ACCOUNT}
CLOUD_TASKS = "massmigration_djangae.CloudTasksBackend"
DJANGAE = "massmigration_djangae.DjangaeBackend"
APP_ENGINE = {"X-AppEngine-TaskName": "1", "X-AppEngine-QueueName": "default", "X-CloudTasks-TaskName": "1"}


@pytest.fixture(autouse=True)
def performed(settings, monkeypatch):
    """The payloads that were accepted."""
    monkeypatch.setattr("massmigration.worker.close_old_connections", lambda: None)  # there is no database here
    performed = []
    settings.ROOT_URLCONF = "testsupport.cloudtasks.urls"
    settings.MASSMIGRATION_BACKEND = CLOUD_TASKS
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS | {"verifier": "testsupport.cloudtasks.signing.verify"}
    monkeypatch.setattr("massmigration.worker.perform", performed.append)
    monkeypatch.delenv("GAE_ENV", raising=False)
    return performed


def post(authorization=None, **headers):
    given = {"Authorization": authorization} if authorization is not None else {}
    return Client(enforce_csrf_checks=True).post(
        PATH, JOB, content_type="application/json", headers={**given, **headers}
    )


def segment(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def unsigned(algorithm, secret=None):
    """Return a token without a signature, or signed with the public certificate as a shared secret."""
    now = int(time.time())
    claims = {"iss": signing.ISSUER, "aud": URL, "email": ACCOUNT, "email_verified": True, "iat": now, "exp": now + 99}
    content = segment({"alg": algorithm, "typ": "JWT", "kid": signing.KEY_ID}) + b"." + segment(claims)
    signature = hmac.digest(secret.encode(), content, "sha256") if secret else b""
    return (content + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def tampered():
    header, _, signature = token(URL, email="somebody@else").split(".")
    now = int(time.time())
    claims = {"iss": signing.ISSUER, "aud": URL, "email": ACCOUNT, "email_verified": True, "iat": now, "exp": now + 99}
    return ".".join([header, segment(claims).decode(), signature])


REFUSED = {
    "no token": lambda: None,
    "an empty token": lambda: "Bearer ",
    "not a bearer": lambda: f"Basic {token(URL)}",
    "not a token": lambda: "Bearer a.b.c",
    "not text": lambda: "Bearer \xff\xfe",
    "another audience": lambda: f"Bearer {token('https://example.com/other/')}",
    "no audience": lambda: f"Bearer {token(URL, aud=None)}",
    "another account": lambda: f"Bearer {token(URL, email='other@example.iam.gserviceaccount.com')}",
    "no account": lambda: f"Bearer {token(URL, email=None)}",
    "an unverified email": lambda: f"Bearer {token(URL, email_verified=False)}",
    "an email verified in words": lambda: f"Bearer {token(URL, email_verified='true')}",
    "an email not known to be verified": lambda: f"Bearer {token(URL, email_verified=None)}",
    "expired": lambda: f"Bearer {token(URL, iat=int(time.time()) - 7200, exp=int(time.time()) - 3600)}",
    "not yet valid": lambda: f"Bearer {token(URL, iat=int(time.time()) + 3600, exp=int(time.time()) + 7200)}",
    "no expiry": lambda: f"Bearer {token(URL, exp=None)}",
    "another issuer": lambda: f"Bearer {token(URL, iss='https://issuer.example')}",
    "no issuer": lambda: f"Bearer {token(URL, iss=None)}",
    "another key": lambda: f"Bearer {token(URL, signed_by='forged')}",
    "tampered": lambda: f"Bearer {tampered()}",
    "unsigned": lambda: f"Bearer {unsigned('none')}",
    "signed with the certificate as a secret": lambda: f"Bearer {unsigned('HS256', signing.certificate())}",
}


@pytest.mark.parametrize("authorization", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_from_the_queue_is_refused(performed, authorization):
    response = post(authorization(), **APP_ENGINE)

    assert (response.status_code, performed) == (403, [])


def test_what_is_from_the_queue_is_performed(performed):
    response = post(f"Bearer {token(URL)}")

    assert (response.status_code, performed) == (200, [JOB])


@pytest.mark.parametrize("missing", ["service_account", "url"])
def test_without_an_account_or_an_audience_nobody_gets_in(settings, performed, missing):
    settings.MASSMIGRATION_BACKEND_OPTIONS = settings.MASSMIGRATION_BACKEND_OPTIONS | {missing: ""}

    assert post(f"Bearer {token(URL)}").status_code == 403
    assert post(f"Bearer {token('', email='')}").status_code == 403
    assert post(f"Bearer {token(URL, email='')}").status_code == 403
    assert performed == []


def test_the_audience_may_be_another_than_the_url(settings, performed):
    settings.MASSMIGRATION_BACKEND_OPTIONS = settings.MASSMIGRATION_BACKEND_OPTIONS | {"audience": "https://own"}

    assert post(f"Bearer {token(URL)}").status_code == 403
    assert post(f"Bearer {token('https://own')}").status_code == 200


def test_a_refusal_does_not_say_why(caplog):
    response = post(f"Bearer {token(URL, email='other@example.com')}")

    assert response.content == b"Refused. The reason is in the server's log."
    assert "The token belongs to 'other@example.com';" in caplog.text


class Unreadable:
    def read(self, *args):
        raise AssertionError("The body was read.")


@pytest.mark.parametrize("authorization", [None, "Bearer a.b.c"])
def test_the_body_of_a_request_that_is_refused_is_not_read(authorization):
    headers = {"Authorization": authorization} if authorization else {}
    request = RequestFactory().post(PATH, b"", content_type="application/json", headers=headers)
    request._stream = Unreadable()

    assert views.run(request).status_code == 403


@pytest.mark.parametrize("kid", ["one\nERROR root: forged", "one\r\x1b[2Jforged", "x" * 100_000])
def test_what_is_refused_begins_no_line_of_the_log_and_fills_none(caplog, kid):
    header, claims, signature = token(URL).split(".")
    header = segment({"alg": "RS256", "typ": "JWT", "kid": kid}).decode()

    assert post(f"Bearer {header}.{claims}.{signature}").status_code == 403

    (message,) = [record.getMessage() for record in caplog.records if record.name == views.__name__]
    assert message.startswith("Refused a request from '127.0.0.1': ")
    assert message.isprintable()
    assert len(message) < 1200


class OfItsOwn(SimpleMigration):
    backend_params = {"service_account": "own@example.com"}

    def operation(self, db_alias):
        pass


@pytest.mark.parametrize(
    ("key", "email", "status"),
    [
        ("testapp:9000_adhoc", "own@example.com", 200),
        ("testapp:9000_adhoc", ACCOUNT, 403),
        ("testapp:0001_once", "own@example.com", 403),
        ("testapp:0001_once", ACCOUNT, 200),
    ],
)
def test_the_job_of_a_migration_needs_the_proof_of_its_own_backend(monkeypatch, performed, key, email, status):
    register(monkeypatch, OfItsOwn)
    payload = Job(kind=JobKind.PLAN, key=key, db_alias="default", attempt_id="0" * 32).dumps()
    headers = {"Authorization": f"Bearer {token(URL, email=email)}"}

    response = Client().post(PATH, payload, content_type="application/json", headers=headers)

    assert (response.status_code, len(performed)) == (status, status == 200)


def test_certificates_are_fetched_once():
    fetch = Certificates()
    certificates = auth.CachedCertificates(fetch)

    for _ in range(3):
        certificates("https://certificates.example", method="GET")

    assert fetch.asked == 1


def test_certificates_are_fetched_again_when_they_are_old(monkeypatch):
    fetch = Certificates()
    certificates = auth.CachedCertificates(fetch)
    certificates("https://certificates.example", method="GET")

    later = time.monotonic() + auth.CERTIFICATES_AGE + 1
    monkeypatch.setattr(auth.time, "monotonic", lambda: later)
    certificates("https://certificates.example", method="GET")

    assert fetch.asked == 2


@pytest.mark.parametrize(
    "fetch",
    [Certificates(status=500), pytest.param(None, id="no network")],
)
def test_without_certificates_nothing_is_run_and_the_job_comes_back(monkeypatch, performed, fetch):
    def refuse(*args, **kwargs):
        raise exceptions.TransportError("no network")

    monkeypatch.setattr(signing, "certificates", auth.CachedCertificates(fetch or refuse))

    assert post(f"Bearer {token(URL)}").status_code == 503
    assert performed == []


@pytest.fixture
def app_engine(settings, monkeypatch):
    settings.MASSMIGRATION_BACKEND = DJANGAE
    settings.MASSMIGRATION_BACKEND_OPTIONS = {"location": "europe-west1"}
    monkeypatch.setenv("GAE_ENV", "standard")


@pytest.mark.usefixtures("app_engine")
def test_on_app_engine_its_header_is_believed(performed):
    response = post(**APP_ENGINE)

    assert (response.status_code, performed) == (200, [JOB])


@pytest.mark.usefixtures("app_engine")
@pytest.mark.parametrize("headers", [{}, {"X-AppEngine-TaskName": ""}, {"X-AppEngine-QueueName": "default"}])
def test_on_app_engine_what_is_no_task_is_refused(performed, headers):
    response = post(f"Bearer {token(URL)}", **headers)

    assert (response.status_code, performed) == (403, [])


@pytest.mark.usefixtures("app_engine")
@pytest.mark.parametrize("environment", ["", "localdev"])
def test_off_app_engine_its_header_is_not_believed(monkeypatch, performed, environment):
    monkeypatch.setenv("GAE_ENV", environment)

    response = post(**APP_ENGINE)

    assert (response.status_code, performed) == (403, [])


def test_on_app_engine_too_http_targets_need_a_token(monkeypatch, performed):
    monkeypatch.setenv("GAE_ENV", "standard")

    assert post(**APP_ENGINE).status_code == 403
    assert performed == []


@pytest.mark.parametrize(("debug", "status"), [(True, 200), (False, 403)])
def test_the_development_verifier_lets_everybody_in_while_debugging(settings, debug, status):
    settings.DEBUG = debug
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS | {"verifier": "massmigration_djangae.auth.development"}

    assert post().status_code == status


def test_another_backend_lets_nobody_in(settings, performed):
    settings.MASSMIGRATION_BACKEND = "massmigration.backends.dummy.DummyBackend"

    assert post(f"Bearer {token(URL)}", **APP_ENGINE).status_code == 403
    assert performed == []


def test_a_verifier_that_cannot_be_imported_lets_nobody_in(settings, performed):
    settings.MASSMIGRATION_BACKEND_OPTIONS = OPTIONS | {"verifier": "missing.verifier"}

    assert post(f"Bearer {token(URL)}").status_code == 503
    assert performed == []
