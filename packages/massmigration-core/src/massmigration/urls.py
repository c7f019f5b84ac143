"""The URLs of the pages: `path("migrations/", include("massmigration.urls"))`."""

from __future__ import annotations

from django.urls import path, register_converter
from django.views.generic import RedirectView

from massmigration import views
from massmigration.url_converters import PartConverter

register_converter(PartConverter, "massmigration_part")

_ONE = "<massmigration_part:key>/<massmigration_part:db_alias>/"

urlpatterns = [
    path("", views.manage, name="massmigration_manage"),
    path("manage/", RedirectView.as_view(pattern_name="massmigration_manage")),  # the URL of django-mass-migration
    path(f"run/{_ONE}", views.run, name="massmigration_run"),
    path(f"detail/{_ONE}", views.detail, name="massmigration_detail"),
    path(f"delete/{_ONE}", views.forget, name="massmigration_delete"),
    path(f"status/{_ONE}", views.status, name="massmigration_status"),
    path(f"failures/{_ONE}", views.failures, name="massmigration_failures"),
    path(f"history/{_ONE}", views.history, name="massmigration_history"),
    path(f"pace/{_ONE}", views.pace, name="massmigration_pace"),
    path("everything/<slug:verb>/", views.everything, name="massmigration_everything"),
    path(f"do/<slug:verb>/{_ONE}", views.perform, name="massmigration_action"),
]
