"""A library that takes no timeout: its calls run in worker threads, and are left behind."""

import threading
import time

from resilient import Bulkhead, BulkheadFullError, CallTimeoutError, Pipeline, Timeout

release = threading.Event()

legacy = Pipeline(
    Bulkhead(2),  # holds its permit until the worker has really ended
    Timeout(0.3, sync="thread", max_workers=2),
    name="legacy",
)


@legacy
def lookup(name: str) -> str:
    if name == "hangs":
        release.wait()
    return name.upper()


def outcome(name: str) -> str:
    try:
        return lookup(name)
    except (CallTimeoutError, BulkheadFullError) as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    names = ["acme", "hangs", "hangs", "acme"]
    found = [outcome(name) for name in names]
    for name, answer in zip(names, found, strict=True):
        print(f"{name:6} {answer}")
    bulkhead = legacy.policies[0]
    print(f"calls that still run: {bulkhead.snapshot().active}")
    assert bulkhead.snapshot().active == 2

    release.set()  # the backend recovers, and the workers end
    while bulkhead.snapshot().active:
        time.sleep(0.001)
    print(f"after the backend has recovered: {outcome('acme')}")
    assert outcome("acme") == "ACME"


if __name__ == "__main__":
    main()
