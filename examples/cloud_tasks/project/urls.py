"""The URLs: where the queue delivers to."""

from django.urls import include, path

urlpatterns = [path("massmigration/", include("massmigration_djangae.urls"))]
