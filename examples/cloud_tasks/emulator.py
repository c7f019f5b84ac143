"""gcloud-tasks-emulator on the loopback interface alone; by default it binds every interface."""

import grpc
from gcloud_tasks_emulator import __main__ as program

make_server = grpc.server


def make_server_on_loopback(*args, **kwargs):
    server = make_server(*args, **kwargs)
    bind = server.add_insecure_port
    server.add_insecure_port = lambda address: bind(address.replace("[::]", "127.0.0.1"))
    return server


grpc.server = make_server_on_loopback

if __name__ == "__main__":
    program.main()
