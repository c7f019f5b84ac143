from massmigration.operations import MapFunctionOnObjects, OperationsMigration
from testsupport.operations_app.functions import count


class Migration(OperationsMigration):
    batch_size = 200
    operations = [MapFunctionOnObjects("people.Person", count, update_fields=["n"])]
