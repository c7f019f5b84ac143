"""A check that the commands of the README work. `nox -s "examples(cloud_tasks)"` runs it."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent
QUEUE = "projects/example/locations/europe-west1/queues/default"
PATIENCE = 60


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as programs:
        python = Path(folder) / "bin" / "python"
        uv("venv", "--python", sys.executable, "--allow-existing", folder)
        uv("pip", "install", "--python", str(python), "gcloud-tasks-emulator==0.6.2")
        emulator, site = free_port(), free_port()
        os.environ["TASKS_EMULATOR_HOST"] = f"127.0.0.1:{emulator}"
        os.environ["EXAMPLE_URL"] = f"http://127.0.0.1:{site}"
        manage("check")
        manage("migrate", "--verbosity", "0")
        program(programs, emulator, python, "emulator.py", "start", "-q", "-p", emulator, "-d", QUEUE)
        program(programs, site, sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{site}")
        manage("massmigrate")
        shown = manage("showmassmigrations")
        assert "[X] 0001_slugs" in shown, shown
    print("The migration was run by the server, which the emulator delivered to.")


def uv(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "uv", "--quiet", *arguments], check=True)


def program(programs: contextlib.ExitStack, port: int, *command: object) -> None:
    """Start a program, wait until it listens, and end it at the end."""
    process = subprocess.Popen([*map(str, command)], cwd=FOLDER)
    programs.callback(process.wait, PATIENCE)
    programs.callback(process.terminate)
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert process.poll() is None, f"{command} has ended."
        assert time.monotonic() < until, f"{command} does not listen on port {port}."
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def manage(*arguments: str) -> str:
    command = [sys.executable, "manage.py", *arguments]
    done = subprocess.run(command, cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    print(done.stdout, end="")
    return done.stdout


if __name__ == "__main__":
    main()
