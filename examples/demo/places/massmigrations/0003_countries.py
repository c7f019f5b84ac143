"""A migration that is done once, in one transaction."""

from django.db.models import Count, Sum

from massmigration.migrations import SimpleMigration
from places.models import City, Country


class Migration(SimpleMigration):
    """Sums the cities up for each country."""

    dependencies = [("places", "0002_sizes")]

    def operation(self, db_alias):
        sums = City.objects.using(db_alias).order_by().values("country_code")
        sums = sums.annotate(cities=Count("pk"), inhabitants=Sum("population"))
        Country.objects.using(db_alias).all().delete()
        Country.objects.using(db_alias).bulk_create(
            Country(code=row["country_code"], cities=row["cities"], population=row["inhabitants"]) for row in sums
        )
