from testsupport.browser_fixtures import chromium, has_admin, site, visit  # noqa: F401 - fixtures
