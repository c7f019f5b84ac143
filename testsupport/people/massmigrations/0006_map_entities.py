from massmigration.operations import MapFunctionOnEntities, OperationsMigration
from testsupport.people.functions import retitle


class Migration(OperationsMigration):
    batch_size = 200
    operations = [MapFunctionOnEntities("people.Person", retitle)]
