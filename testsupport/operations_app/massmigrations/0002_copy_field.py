from massmigration.operations import CopyFieldData, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [CopyFieldData("people.Person", "name", "nick")]
