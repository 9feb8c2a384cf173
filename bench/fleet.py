"""What one provider sees of a fleet, second by second, while it fails and comes back: python -m bench.fleet.

Each process is the service's own chain, with its breaker, its budget of retries and its /health. Only time and the
provider are made: a request that waits is a greenlet, and the clock jumps to the next one that is due.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from itertools import count
from threading import current_thread
from time import sleep
from typing import NamedTuple
from unittest.mock import Mock, patch

from greenlet import getcurrent, greenlet

from llm_api import Settings
from llm_api.backends import Backend
from llm_api.errors import BackendError, RateLimited, ServerError, TimedOut
from llm_api.exchange import attempts, breaker, chain, health
from llm_api.log.writer import RequestLog
from llm_api.runtime import deadline
from llm_api.types import Chunk, GenerationRequest, Message, Usage

from . import harness

FAILS, BACK, END = 10.0, 70.0, 80.0
# Processes, and the requests of each a second: 10 machines with 4, and 100 with 12.
FLEETS = {40: 10.0, 1_200: 1.0}
# How often somebody asks the /health of each, and what an answer or an error takes.
LOOKS, SECONDS = 4.0, 0.2
TIMEOUT = 20.0
# A limit that is counted from one moment to another, the same for all.
WINDOW = 12.0
REQUEST = GenerationRequest((Message.of("user", "Hi"),))


class Time:
    """Stands in for the module `time`. Runs greenlets in the order in which they are due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, greenlet]] = []
        self._numbers = count()
        self._main, self._thread = getcurrent(), current_thread()

    def monotonic(self) -> float:
        """Return the seconds since the beginning."""
        return self.now

    def at(self, moment: float, do: Callable[[], object]) -> None:
        """Run `do` then."""
        self._wake(moment, greenlet(do, self._main))

    def sleep(self, seconds: float) -> None:
        """Let the others run until then; a thread that is none of ours, such as a watchdog, sleeps."""
        if current_thread() is not self._thread:
            sleep(seconds)
            return
        self._wake(self.now + seconds, getcurrent())
        self._main.switch()

    def run(self, until: float) -> None:
        """Run all that is due until then."""
        while self._due and self._due[0][0] < until:
            self.now, _, next_one = heapq.heappop(self._due)
            next_one.switch()

    def _wake(self, moment: float, sleeper: greenlet) -> None:
        heapq.heappush(self._due, (moment, next(self._numbers), sleeper))


class Deadline(deadline.Deadline):
    """A request's, without the thread that watches over real ones."""

    def __init__(self, time: Time, seconds: float) -> None:
        super().__init__(seconds)
        self._time = time

    def stopping(self, stop: Callable[[], object]) -> AbstractContextManager[None]:
        return nullcontext()

    def wait(self, seconds: float) -> None:
        self._time.sleep(min(seconds, self.remaining()))
        self.check()


class Thread:
    """Stands in for a thread: a look at the provider takes no time here."""

    def __init__(self, target: Callable[..., object] = int, args: Iterable[object] = (), **_: object) -> None:
        self.start = partial(target, *args)

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float) -> None:
        pass


Trouble = Callable[[Time, deadline.Deadline], None]


def fails(time: Time, deadline: deadline.Deadline) -> None:
    """Say 500."""
    raise ServerError("it fails")


def hangs(time: Time, deadline: deadline.Deadline) -> None:
    """Say nothing, to the end."""
    time.sleep(deadline.remaining())
    raise TimedOut("it hangs")


def limits(time: Time, deadline: deadline.Deadline) -> None:
    """Say 429."""
    raise RateLimited("too many")


def limits_until(time: Time, deadline: deadline.Deadline) -> None:
    """Say 429, and when the limit's window is over: a moment that is the same for all."""
    raise RateLimited("too many", retry_after=WINDOW - time.now % WINDOW)


TROUBLES: dict[str, Trouble] = {
    "500": fails,
    "429": limits,
    "429 with Retry-After": limits_until,
    "hangs": hangs,
}


class Seen(NamedTuple):
    """What the provider counted: `tries`, those that were `trials` of an open breaker, `probes`; by second."""

    tries: Counter[int]
    trials: Counter[int]
    probes: Counter[int]


class Provider(Backend):
    """Answers, but for a time; notes what it is asked."""

    name = "provider"
    model = "m"
    own: breaker.Breaker

    def __init__(self, time: Time, trouble: Trouble, seen: Seen) -> None:
        super().__init__(Settings())
        self._time, self._trouble, self._seen = time, trouble, seen

    def stream(self, request: GenerationRequest, deadline: deadline.Deadline) -> Iterator[Chunk]:
        self._seen.tries[int(self._time.now)] += 1
        self._seen.trials[int(self._time.now)] += self.own.is_open
        in_trouble = FAILS <= self._time.now < BACK
        self._time.sleep(SECONDS)
        if in_trouble:
            self._trouble(self._time, deadline)
        yield Chunk("Hi", "stop", Usage(1, 1))

    def check(self, deadline: deadline.Deadline) -> None:
        self._seen.probes[int(self._time.now)] += 1
        if FAILS <= self._time.now < BACK:
            raise TimedOut("no")

    def list_models(self, deadline: deadline.Deadline) -> list[str]:
        return []


class Process:
    """One worker: requests arrive at random, and somebody asks for its health."""

    def __init__(self, time: Time, rate: float, trouble: Trouble, seen: Seen) -> None:
        provider = Provider(time, trouble, seen)
        settings = Settings(request_timeout=TIMEOUT)
        self._time, self._rate = time, rate
        self._chain = chain.Chain(settings, chain.Hooks(), [provider])
        provider.own = self._chain.links[0].breakers.own
        self._health = health.Health(self._chain, Mock(RequestLog, failure=None))

    def serve(self) -> None:
        """Take requests until the end."""
        self._health.begin()
        self._time.at(random.random() / LOOKS, self._look)
        self._arrive()

    def _arrive(self) -> None:
        self._time.at(self._time.now + random.expovariate(self._rate), self._arrived)

    def _arrived(self) -> None:
        self._arrive()
        with suppress(BackendError):
            begun = self._chain.begin(self._chain.route(REQUEST), Deadline(self._time, TIMEOUT), attempts.Attempts())
            list(begun.chunks)

    def _look(self) -> None:
        self._health.report()
        self._time.at(self._time.now + 1 / LOOKS, self._look)


def _shortest(low: float, high: float) -> float:
    return low


GUARDS: dict[str, dict[tuple[object, str], object]] = {
    "as it is": {},
    "its pauses not spread": {(random, "uniform"): _shortest},
    "no breaker, no budget": {(breaker, "FAILURES"): 10**9, (breaker, "FLOOR"): 10**9},
}


def watch(processes: int, rate: float, trouble: Trouble, guards: str = "as it is", until: float = END) -> Seen:
    """Return what the provider sees of so many processes with so many requests a second each."""
    random.seed(processes)  # the same each time
    time, seen = Time(), Seen(Counter(), Counter(), Counter())
    replaced = {(module, "time"): time for module in (attempts, breaker, chain, deadline, health)}
    replaced |= {(health.threading, "Thread"): Thread, **GUARDS[guards]}
    with ExitStack() as stack:
        for (where, name), by in replaced.items():
            stack.enter_context(patch.object(where, name, by))
        for _ in range(processes):
            time.at(0.0, Process(time, rate, trouble, seen).serve)
        time.run(until)
    return seen


def _told(counted: Counter[int], first: float, after: float) -> str:
    """Return the mean and the worst of these seconds."""
    seconds = [counted[second] for second in range(int(first), int(after))]
    return f"{harness.number(sum(seconds) / len(seconds))} / {max(seconds):,}"


def _row(seen: Seen) -> list[str]:
    during = [_told(counted, FAILS, BACK) for counted in seen]
    return [during[0], _told(seen.tries, BACK, END), *during[1:]]


def main() -> None:
    """Print the table."""
    fleets = list(FLEETS.items())[: 1 if harness.is_short(__doc__) else 2]
    logging.disable()
    rows = []
    for name, trouble in TROUBLES.items():
        for guards in GUARDS:
            cells = [cell for fleet in fleets for cell in _row(watch(*fleet, trouble, guards))]
            rows.append([name, guards, *cells])
    figures = [f"{processes:,}: {what}" for processes, _ in fleets for what in ("tries", "after", "trials", "probes")]
    print(harness.table(["provider", "the fleet", *figures], rows))


if __name__ == "__main__":
    main()
