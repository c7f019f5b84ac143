"""What the tests of all packages share: real servers, databases on them, and an app to migrate."""
