"""The URLs of a project that Cloud Tasks delivers to."""

from django.urls import include, path

urlpatterns = [path("massmigration/", include("massmigration_djangae.urls"))]
