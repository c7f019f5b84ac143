"""The address to which Cloud Tasks delivers. Add it to the project's URLs:

`path("massmigration/", include("massmigration_djangae.urls"))`
"""

from __future__ import annotations

from django.urls import path

from massmigration_djangae.views import run

app_name = "massmigration_djangae"

urlpatterns = [path("run/", run, name="run")]
