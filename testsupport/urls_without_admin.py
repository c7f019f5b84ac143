"""The URLs of a project without the admin, with its own login page."""

from django.contrib.auth.views import LoginView
from django.urls import include, path

urlpatterns = [
    path("accounts/login/", LoginView.as_view(template_name="massmigration/problem.html"), name="login"),
    path("migrations/", include("massmigration.urls")),
]
