"""gcloud-tasks-emulator 0.6.2 on the loopback interface alone, for an environment of its own.

It binds every interface by itself. What else is changed is nearer to the service: several tasks of a queue are
delivered at a time, a task is listed until it is done, and purging a queue does not end it.
MM_TEST_COPIES says how often each task is delivered, all copies at once; MM_TEST_AT_ONCE how many tasks at a time.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from gcloud_tasks_emulator import __main__ as program
from gcloud_tasks_emulator import server

COPIES = int(os.environ.get("MM_TEST_COPIES", "1"))
AT_ONCE = int(os.environ.get("MM_TEST_AT_ONCE", "4"))
EVERY = 0.01
AGAIN_AFTER = 0.1
LOOPBACK = "127.0.0.1"

_make_server = grpc.server


def make_server(*args, **kwargs):
    made = _make_server(*args, **kwargs)
    bind = made.add_insecure_port
    made.add_insecure_port = lambda address: bind(address.replace("[::]", LOOPBACK))
    return made


class Processor(server.Processor):
    """A queue that delivers its tasks in parallel."""

    def _process_queue(self, queue):
        busy = set()
        not_before = {}
        with ThreadPoolExecutor(AT_ONCE * COPIES * 2) as pool:
            while self._is_running.is_set() and queue in self._state._queue_tasks:
                tasks = self._state._queue_tasks[queue]
                running = self._state.queue(queue).state == server.Queue.State.RUNNING
                for task in tasks[:] if running else []:
                    if len(busy) >= AT_ONCE:
                        break
                    scheduled = task.schedule_time.timestamp() if task.schedule_time else 0
                    due = max(scheduled, not_before.get(id(task), 0))
                    if id(task) not in busy and due <= time.time():
                        busy.add(id(task))
                        pool.submit(self._deliver, queue, task, busy, not_before, pool)
                time.sleep(EVERY)

    def _deliver(self, queue, task, busy, not_before, pool):
        try:
            copies = [pool.submit(self._request, queue, task) for _ in range(COPIES)]
            if all(copy.result() for copy in copies):
                tasks = self._state._queue_tasks.get(queue, [])
                tasks[:] = [each for each in tasks if each is not task]
            else:
                not_before[id(task)] = time.time() + AGAIN_AFTER
        finally:
            busy.discard(id(task))

    def _request(self, queue, task):
        task.dispatch_count += 1
        try:
            server._make_task_request(queue, task, self._state._target_host, self._state._target_port)
        except Exception:
            return False
        return True


def main():
    grpc.server = make_server
    server.grpc.server = make_server
    server.Processor = Processor
    threading.stack_size(256 * 1024)
    program.main()


if __name__ == "__main__":
    main()
