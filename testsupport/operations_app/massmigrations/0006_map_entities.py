from massmigration.operations import MapFunctionOnEntities, OperationsMigration
from testsupport.operations_app.functions import retitle


class Migration(OperationsMigration):
    batch_size = 200
    operations = [MapFunctionOnEntities("people.Person", retitle)]
