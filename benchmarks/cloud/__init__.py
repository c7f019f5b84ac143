"""Settings and a driver for the djangae project, for processes of environments of their own."""
