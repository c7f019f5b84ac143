"""The pages of djangae's tasks, and of ours."""

from django.urls import include, path

urlpatterns = [
    path("tasks/", include("djangae.tasks.urls")),
    path("massmigration/", include("massmigration_djangae.urls")),
]
