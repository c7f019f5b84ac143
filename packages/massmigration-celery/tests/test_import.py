from importlib.metadata import requires, version

from packaging.requirements import Requirement

import massmigration_celery


def test_the_package_has_one_public_surface():
    public = massmigration_celery.__all__

    assert all(hasattr(massmigration_celery, name) for name in public)


def test_the_core_of_the_same_minor_version_is_required():
    major, minor, *_ = version("massmigration-celery").split(".")

    [core] = [each for each in map(Requirement, requires("massmigration-celery")) if each.name == "massmigration-core"]

    assert str(core.specifier) == f"=={major}.{minor}.*"
    assert core.specifier.contains(version("massmigration-core"), prereleases=True)
