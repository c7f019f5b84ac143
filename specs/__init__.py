"""Models of what the project promises, checked by machine."""
