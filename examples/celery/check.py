"""A check that the commands of the README work. `nox -s "examples(celery)"` runs it."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
    manage("migrate", "--verbosity", "0")
    worker = subprocess.Popen([sys.executable, "-m", "celery", "-A", "project", "worker", "-Q", "massmigrations"])
    try:
        manage("massmigrate")
        shown = manage("showmassmigrations")
        assert "[X] 0001_slugs" in shown, shown
    finally:
        worker.terminate()
        code = worker.wait(60)
    assert code == 0, f"The worker ended with code {code}."
    print("The migration was run by the worker.")


def manage(*arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    print(done.stdout, end="")
    return done.stdout


if __name__ == "__main__":
    main()
