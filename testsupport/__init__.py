"""The common parts of the tests of all packages: real servers, databases on them, and an app to migrate."""
