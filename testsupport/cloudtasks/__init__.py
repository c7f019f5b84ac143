"""Cloud Tasks for the tests: an emulator, a fake that does what the emulator does not, and keys as Google's."""
