"""Cloud Tasks for the tests: an emulator, a fake for what the emulator lacks, and keys like Google's."""
