"""Google's emulator of Firestore, in either mode: in native mode, or as Datastore."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from testsupport.processes import answers
from testsupport.services import Server, on_path

JAR = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
FOLDERS = ["/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "~/google-cloud-sdk"]


class Firestore(Server):
    """Firestore in native mode. Neither PyPI nor Debian has it."""

    title = "Firestore emulator"
    variable = "TEST_FIRESTORE_HOST"
    advice = "install a Java runtime and google-cloud-cli-firestore-emulator, from Google's own registry of packages"
    death_signal = signal.SIGKILL
    mode: Sequence[str] = ()
    engine = "firestore"
    told_by = "FIRESTORE_EMULATOR_HOST"

    def find(self) -> Path | None:
        cli = on_path("gcloud")
        roots = [*([cli.resolve().parent.parent] if cli else []), *(Path(folder).expanduser() for folder in FOLDERS)]
        jar = next((root / JAR for root in roots if os.access(root / JAR, os.R_OK)), None)
        return jar if on_path("java") else None

    def command(self) -> Sequence[object]:
        main = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"
        java = [on_path("java"), "-Xmx768m", "-cp", self.binary, main]
        return [*java, "start", "--host=127.0.0.1", f"--port={self.port}", *self.mode]

    def is_ready(self) -> bool:
        return answers(self.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200")

    def started_url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def version(self) -> str:
        return ""


class Datastore(Firestore):
    """Firestore in Datastore mode."""

    title = "Datastore emulator"
    variable = "TEST_DATASTORE_HOST"
    mode = ("--database-mode=datastore-mode",)
    engine = "datastore"
    told_by = "DATASTORE_EMULATOR_HOST"
