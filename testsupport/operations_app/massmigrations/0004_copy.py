from massmigration.operations import CopyModelData, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [CopyModelData("people.Person", "people.Archived")]
