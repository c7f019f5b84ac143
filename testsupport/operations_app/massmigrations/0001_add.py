from django.db.models import F

from massmigration.operations import AddFieldData, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [AddFieldData("people.Person", "n", F("n") + 1, overwrite=True)]
