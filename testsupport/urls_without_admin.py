"""The URLs of a project that has no admin, and a page of its own for logging in."""

from django.contrib.auth.views import LoginView
from django.urls import include, path

urlpatterns = [
    path("accounts/login/", LoginView.as_view(template_name="massmigration/problem.html"), name="login"),
    path("migrations/", include("massmigration.urls")),
]
