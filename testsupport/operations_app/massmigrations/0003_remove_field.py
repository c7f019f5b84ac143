from massmigration.operations import OperationsMigration, RemoveFieldData


class Migration(OperationsMigration):
    batch_size = 200
    operations = [RemoveFieldData("people.Person", "old code")]
