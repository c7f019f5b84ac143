"""Tokens signed like Google's with keys of the tests, and the certificates that verify them."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
from functools import cache
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.auth import jwt
from google.auth.crypt import RSASigner

from massmigration_djangae import auth

ACCOUNT = "massmigration@example.iam.gserviceaccount.com"
ISSUER = "https://accounts.google.com"
KEY_ID = "test-key"


@cache
def key(name: str = KEY_ID) -> rsa.RSAPrivateKey:
    """Return the private key of this name, the same in all processes that this one starts."""
    variable = f"MM_TEST_KEY_{name}"
    if variable not in os.environ:
        os.environ[variable] = pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)).decode()
    loaded = serialization.load_pem_private_key(os.environ[variable].encode(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded


def pem(private: rsa.RSAPrivateKey) -> bytes:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@cache
def certificate(name: str = KEY_ID) -> str:
    """Return a certificate of the key, in the form in which Google publishes them."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.timezone.utc)
    builder = x509.CertificateBuilder(subject, subject, key(name).public_key(), x509.random_serial_number())
    built = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    return built.sign(key(name), hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def token(audience: str, *, signed_by: str = KEY_ID, **claims: Any) -> str:
    """Return the token of a request from Cloud Tasks. Leave out claims that are None."""
    now = int(time.time())
    given = {
        "iss": ISSUER,
        "aud": audience,
        "email": ACCOUNT,
        "email_verified": True,
        "sub": "1",
        "iat": now,
        "exp": now + 3600,
        **claims,
    }
    signer = RSASigner.from_string(pem(key(signed_by)), KEY_ID)
    return jwt.encode(signer, {name: value for name, value in given.items() if value is not None}).decode()


class Certificates:
    """A substitute for the transport that fetches Google's certificates; it counts the requests."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.asked = 0

    def __call__(self, url: str, **kwargs: Any) -> Any:
        self.asked += 1
        return SimpleNamespace(status=self.status, data=json.dumps({KEY_ID: certificate()}).encode(), headers={})


certificates = auth.CachedCertificates(Certificates())


def verify(request: Any, options: Any) -> None:
    """Verify a token as the backend does, with these certificates."""
    auth.signed(request, options, certificates)
