from massmigration.operations import AddFieldData, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [AddFieldData("people.Person", "age", 7)]
