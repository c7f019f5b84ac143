import textwrap

import pytest

from massmigration_schema.exceptions import Refused
from massmigration_schema.rewriting import rewrite, rewritten

BODY = "    dependencies = []\n    operations = []  # é\n"
NEW = "from massmigration_schema import OnlineMigration\n"


def changed(head):
    return rewritten(head + BODY).removesuffix(BODY)


FILES = {
    "as makemigrations writes it": (
        "# By Django\n\nfrom django.db import migrations, models\n\n\nclass Migration(migrations.Migration):\n",
        f"# By Django\n\nfrom django.db import migrations, models\n{NEW}\n\nclass Migration(OnlineMigration):\n",
    ),
    "another name of the module": (
        "from django.db import migrations as m\n\nclass Migration(m.Migration):\n",
        f"from django.db import migrations as m\n{NEW}\nclass Migration(OnlineMigration):\n",
    ),
    "the class itself": (
        "from django.db.migrations import Migration as Base, RunSQL\n\nclass Migration(Base):\n",
        f"from django.db.migrations import Migration as Base, RunSQL\n{NEW}\nclass Migration(OnlineMigration):\n",
    ),
    "the full name": (
        "import django.db.migrations\n\nclass Migration(django.db.migrations.Migration):\n",
        f"import django.db.migrations\n{NEW}\nclass Migration(OnlineMigration):\n",
    ),
    "several bases": (
        (
            "from django.db import migrations\nfrom shop.mixins import Logged\n\n"
            "class Migration(Logged, migrations.Migration, metaclass=type):\n"
        ),
        (
            f"from django.db import migrations\nfrom shop.mixins import Logged\n{NEW}\n"
            "class Migration(Logged, OnlineMigration, metaclass=type):\n"
        ),
    ),
    "a decorator and comments": (
        (
            "from django.db import (\n    migrations,  # one\n    models,\n)\n\n\n@mark('é')  # two\n"
            "class Migration(  # three\n    migrations.Migration,  # ü four\n):\n"
        ),
        (
            f"from django.db import (\n    migrations,  # one\n    models,\n)\n{NEW}\n\n@mark('é')  # two\n"
            "class Migration(  # three\n    OnlineMigration,  # ü four\n):\n"
        ),
    ),
    "an import that exists": (
        (
            "from django.db import migrations\nfrom massmigration_schema import Online, OnlineMigration as O\n\n"
            "class Migration(migrations.Migration):\n"
        ),
        (
            "from django.db import migrations\nfrom massmigration_schema import Online, OnlineMigration as O\n\n"
            "class Migration(O):\n"
        ),
    ),
    "a later import": (
        "from django.db import migrations\n\nclass Migration(migrations.Migration):\n    import os\n",
        f"from django.db import migrations\n{NEW}\nclass Migration(OnlineMigration):\n    import os\n",
    ),
    "text on the line before the base": (
        "from django.db import migrations\n\nclass Migration((migrations.Migration)): x = 'é'\n",
        f"from django.db import migrations\n{NEW}\nclass Migration((OnlineMigration)): x = 'é'\n",
    ),
    "an online migration": (
        f"{NEW}\nclass Migration(OnlineMigration):\n",
        f"{NEW}\nclass Migration(OnlineMigration):\n",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_the_base_class_is_replaced(case):
    before, after = FILES[case]
    body = "" if "x = " in before else BODY

    assert rewritten(before + body) == after + body
    assert rewritten(after + body) == after + body


def test_an_import_after_the_class_does_not_count():
    source = "from django.db import migrations\n\nclass Migration(migrations.Migration):\n    x = 1\n\nimport os\n"

    assert rewritten(source).startswith(f"from django.db import migrations\n{NEW}")


def test_line_ends_of_windows_are_kept():
    source = "from django.db import migrations\r\n\r\nclass Migration(migrations.Migration):\r\n    x = 1\r\n"

    found = rewritten(source)

    assert found.count("\r\n") == found.count("\n") == 5


REFUSED = {
    "no class": ("from django.db import migrations\n", "it has 0 classes named Migration"),
    "another base": (
        "from shop.base import ShopMigration\nclass Migration(ShopMigration):\n    x = 1\n",
        r"the bases of its class are ShopMigration; one of them must be django\.db\.migrations\.Migration",
    ),
    "a base of its own": (
        "from . import migrations\nclass Migration(migrations.Migration):\n    x = 1\n",
        r"the bases of its class are migrations\.Migration",
    ),
    "a name that is taken": (
        "from django.db import migrations\nclass OnlineMigration: pass\nclass Migration(migrations.Migration): x = 1\n",
        "it uses the name OnlineMigration for something else",
    ),
    "an import in a condition": (
        "if True:\n    from django.db import migrations as m\nclass Migration(m.Migration):\n    x = 1\n",
        r"the bases of its class are m\.Migration",
    ),
    "two lines": (
        "from django.db import migrations\nclass Migration(migrations.\n  Migration):\n    x = 1\n",
        "on one line",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_not_changed(case, tmp_path):
    source, words = REFUSED[case]
    path = tmp_path / "0001_initial.py"
    path.write_text(source)

    with pytest.raises(Refused, match=words) as raised:
        rewrite(path)

    assert raised.value.code == "online.file"
    assert path.read_text() == source
    assert [each.name for each in tmp_path.iterdir()] == ["0001_initial.py"]


def test_another_encoding_is_refused(tmp_path):
    path = tmp_path / "0001_initial.py"
    path.write_bytes(b"# coding: latin-1\nx = '\xe9'\n")

    with pytest.raises(Refused, match="its encoding is iso-8859-1"):
        rewrite(path)


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "0001_initial.py"
    source = textwrap.dedent("""
        from django.db import migrations

        class Migration(migrations.Migration):
            operations = []
    """)
    path.write_text(source)
    path.chmod(0o640)
    monkeypatch.setattr("pathlib.Path.replace", lambda *arguments: (_ for _ in ()).throw(OSError("no space")))

    with pytest.raises(OSError, match="no space"):
        rewrite(path)

    assert path.read_text() == source
    assert [each.name for each in tmp_path.iterdir()] == ["0001_initial.py"]
    monkeypatch.undo()
    assert rewrite(path)
    assert "class Migration(OnlineMigration):" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert not rewrite(path)
