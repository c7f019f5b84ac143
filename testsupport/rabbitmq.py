"""A RabbitMQ server for the tests, which shares no node, cookie, data, port or epmd with that of the machine."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from testsupport.processes import Process, answers, free_port
from testsupport.services import Server, on_path

# The programs on PATH are wrappers that only root and RabbitMQ's own user may run. These folders hold the originals.
FOLDERS = ["/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin"]


class RabbitMQ(Server):
    """RabbitMQ without plugins. No wheel has it."""

    title = "RabbitMQ"
    variable = "TEST_RABBITMQ_URL"
    advice = "install rabbitmq-server"
    is_optional = True

    def find(self) -> Path | None:
        bare = [Path(folder, "rabbitmq-server") for folder in FOLDERS]
        found = next((path for path in bare if path.exists()), None) or on_path("rabbitmq-server")
        return found if on_path("epmd") and on_path("erl") else None

    def launch(self) -> None:
        if self._binary and self._process is None:
            # If there is none, Erlang starts an epmd that outlives the tests.
            self.epmd_port = free_port()
            command = [on_path("epmd"), "-port", self.epmd_port, "-address", "127.0.0.1"]
            (self.folder / "epmd").mkdir()
            self._epmd = Process(command, self.folder / "epmd", death_signal=signal.SIGKILL)
            self._epmd.wait_until(lambda: answers(self.epmd_port))
        super().launch()

    def command(self) -> Sequence[object]:
        settings = {
            "HOME": self.folder,
            "ERL_EPMD_PORT": self.epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"tests-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_ERLANG_COOKIE": self.folder.parent.name,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "no-environment",
            "RABBITMQ_CONFIG_FILE": self.folder / "no-configuration",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "no-plugins",
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder,
            "RABBITMQ_LOGS": "-",
            "ERL_CRASH_DUMP": "/dev/null",
            "RUNNING_UNDER_SYSTEMD": 1,  # no shell is left between us and the node
        }
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in settings.items()), self.binary]

    def is_ready(self) -> bool:
        assert self._process
        return self._process.has_logged(b"Server startup complete") and answers(self.port)

    def started_url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def stop(self) -> None:
        super().stop()
        if self._process:
            self._epmd.stop()

    def version(self) -> str:
        return ""
