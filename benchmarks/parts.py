"""The parts of the benchmark by name, and their modules.

A part's module has `TITLE`; `DATABASES`, on which it is measured; `measure(sizes)`, called in a process of its own
with Django set up, which returns what JSON can hold; and `render(result)`, which returns lines of Markdown.
One with `DATABASES = ()` is measured last, without a server: `measure(sizes, results)`.
"""

PARTS = {
    "speed": "benchmarks.speed",
    "bookkeeping": "benchmarks.bookkeeping",
    "operations": "benchmarks.operations",
    "memory": "benchmarks.memory",
    "skew": "benchmarks.skew",
    "processes": "benchmarks.processes",
    "writer": "benchmarks.writer",
    "site": "benchmarks.site",
    "queues": "benchmarks.queues",
    "cloudtasks": "benchmarks.cloudtasks",
    "launching": "benchmarks.launching",
    "scale": "benchmarks.scale",
}
