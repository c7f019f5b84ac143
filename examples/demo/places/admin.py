"""The admin's pages for the demo."""

from django.contrib import admin

from places.folding import fold
from places.models import City, Country


@admin.register(City)
class CityAdmin(admin.ModelAdmin):
    """Cities, found by any of their names, in any script, with or without accents."""

    list_display = ("name", "country_code", "population", "size", "slug")
    list_filter = ("size",)
    readonly_fields = ("slug", "search_key", "size")
    search_fields = ("search_key__contains",)
    show_full_result_count = False

    def get_search_results(self, request, queryset, search_term):
        return super().get_search_results(request, queryset, fold(search_term))


@admin.register(Country)
class CountryAdmin(admin.ModelAdmin):
    """The sums of countries."""

    list_display = ("code", "cities", "population")
