"""The front page and the admin."""

from django.contrib import admin
from django.urls import path
from places import views

urlpatterns = [path("", views.front, name="front"), path("admin/", admin.site.urls)]
