"""A check that the commands of the README work. `nox -s "examples(online)"` runs it."""

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    manage("migrate", "massmigration", "--verbosity", "0")
    manage("migrate", "massmigration_schema", "--verbosity", "0")
    manage("migrate", "shop", "0001", "--verbosity", "0")
    manage("seed")
    refused = manage("migrate", fails=True)
    assert "onlinemigration start shop 0002_bigint" in refused, refused
    assert "copies: rewrites the table" in manage("onlinemigration", "plan", "shop", "0002")
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.json"
        writer = subprocess.Popen([sys.executable, "manage.py", "write", str(journal)], cwd=FOLDER)
        try:
            manage("onlinemigration", "start", "shop", "0002")
            manage("onlinemigration", "status", "shop", "0002")
            manage("onlinemigration", "cutover", "shop", "0002", "--no-input")
        finally:
            writer.terminate()
            code = writer.wait(60)
        assert code == 0, f"The writer ended with code {code}."
        compared = manage("compare", str(journal))
    assert "The key is bigint." in compared, compared
    migrated = manage("migrate")
    assert "No migrations to apply." in migrated
    assert "changes that are not yet" not in migrated
    manage("onlinemigration", "cleanup", "shop", "0002", "--force", "--no-input")
    assert manage("onlinemigration", "orphans") == ""
    print("The table was changed under a writer.")


def manage(*arguments: str, fails: bool = False) -> str:
    """Run a command. Return what it has printed; its errors, too, if it has to fail."""
    command = [sys.executable, "manage.py", *arguments]
    errors = subprocess.STDOUT if fails else None
    done = subprocess.run(
        command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=errors, text=True, check=False, timeout=600
    )
    print(done.stdout, end="", flush=True)
    assert (done.returncode != 0) is fails, f"{' '.join(arguments)} ended with code {done.returncode}."
    return done.stdout


if __name__ == "__main__":
    main()
