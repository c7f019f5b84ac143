from massmigration.operations import DeleteModelData, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [DeleteModelData("people.Person")]
