"""The settings; those for massmigration are at the end."""

import os
from urllib.parse import unquote, urlsplit

SECRET_KEY = "only for the example"
DEBUG = True
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
_URL = urlsplit(os.environ.get("EXAMPLE_POSTGRES_URL", "postgresql://postgres@localhost:5432/postgres"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _URL.path.removeprefix("/"),
        "USER": unquote(_URL.username or ""),
        "PASSWORD": unquote(_URL.password or ""),
        "HOST": _URL.hostname or "",
        "PORT": _URL.port or "",
    }
}
INSTALLED_APPS = ["massmigration", "massmigration_schema", "shop"]
