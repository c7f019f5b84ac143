from massmigration.operations import CopyModelDataToNamespace, OperationsMigration


class Migration(OperationsMigration):
    batch_size = 200
    operations = [CopyModelDataToNamespace("people.Person", "default", to_app_label="people", to_model_name="Archived")]
