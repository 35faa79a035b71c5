"""The core patterns together: an unreliable payment provider behind one pipeline.

For every third customer the first request fails, for every seventh it hangs. They notice neither.
"""

import asyncio

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Pipeline,
    Retry,
    Timeout,
    attempt_number,
    exponential,
)

payments = Pipeline(  # outermost first
    Fallback(value="queued for later"),
    Timeout(5),  # the whole call
    Retry(
        on=(ConnectionError, TimeoutError),
        attempts=4,
        backoff=exponential(0.01, maximum=0.1),
    ),
    CircuitBreaker(on=ConnectionError, failure_rate=0.8),
    Bulkhead(10, max_queue=100),
    Timeout(0.1),  # each attempt
    name="payments",
)

saved_by_retry = 0


async def provider(customer: int) -> str:
    """Stand for a request over the network."""
    await asyncio.sleep(0.001)
    if attempt_number() == 1 and customer % 7 == 0:
        await asyncio.sleep(3600)
    if attempt_number() == 1 and customer % 3 == 0:
        raise ConnectionError("connection reset")
    return f"charged customer {customer}"


@payments
async def charge(customer: int) -> str:
    global saved_by_retry
    answer = await provider(customer)
    saved_by_retry += attempt_number() > 1
    return answer


async def main() -> None:
    customers = range(1, 31)
    answers = await asyncio.gather(*(charge(customer) for customer in customers))
    charged = sum(answer.startswith("charged") for answer in answers)
    print(f"{charged} of {len(customers)} customers were charged")
    print(f"{saved_by_retry} of them only because of a further attempt")
    breaker = payments.policies[3].snapshot()
    print(f"the breaker is {breaker.state}: {breaker.failures} of {breaker.calls} attempts failed")
    assert charged == len(customers)
    assert saved_by_retry >= 13


if __name__ == "__main__":
    asyncio.run(main())
