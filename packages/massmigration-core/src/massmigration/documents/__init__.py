"""Records on a document database, where get, check and save in a transaction replace one SQL statement."""
