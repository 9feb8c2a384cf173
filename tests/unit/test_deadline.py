"""One request's clock, and the watchdog that stops what runs at the deadline or when the client has gone."""

import socket
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest
from processes import python

from llm_api.errors import ClientGone, TimedOut
from llm_api.runtime.deadline import Deadline

SOON = 0.15
LONG = 60.0
PATIENCE = 20  # only a failing test waits so long


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket to a client, and the client's end of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_at_the_deadline_what_runs_is_stopped() -> None:
    """`stop` is called from another thread, not before the time and soon after it."""
    stopped = threading.Event()
    deadline = Deadline(SOON)
    started = time.monotonic()
    with deadline.stopping(stopped.set):
        assert stopped.wait(PATIENCE)
    assert SOON <= time.monotonic() - started < SOON + 0.5
    with pytest.raises(TimedOut, match="REQUEST_TIMEOUT"):
        deadline.check()


def test_each_is_stopped_at_its_own_time() -> None:
    """One watchdog looks after many requests; one with time left runs on."""
    stopped: dict[str, threading.Event] = {name: threading.Event() for name in ("soon", "later", "long")}
    with (
        Deadline(LONG).stopping(stopped["long"].set),
        Deadline(4 * SOON).stopping(stopped["later"].set),
        Deadline(SOON).stopping(stopped["soon"].set),
    ):
        assert stopped["soon"].wait(PATIENCE)
        assert not stopped["later"].is_set()
        assert stopped["later"].wait(PATIENCE)
    assert not stopped["long"].is_set()


def test_one_that_cannot_be_stopped_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Where stopping fails, the watchdog says so once and goes on: without it no request would end in time."""
    tried, stopped = threading.Event(), threading.Event()

    def fail() -> None:
        tried.set()
        raise RuntimeError

    with Deadline(0).stopping(fail):
        assert tried.wait(PATIENCE)
        for _ in range(2):  # each is two rounds of the watchdog's at most
            stopped.clear()
            with Deadline(SOON).stopping(stopped.set):
                assert stopped.wait(PATIENCE)
    said = [record.getMessage() for record in caplog.records if record.name == "llm_api.runtime.deadline"]
    assert len(said) == 1
    assert "RuntimeError" in said[0]


def test_what_begins_after_the_client_has_gone_is_stopped() -> None:
    """Who stops a request once must not miss what another thread is just about to begin."""
    stopped = threading.Event()
    deadline = Deadline(LONG)
    deadline.hung_up()
    with deadline.stopping(stopped.set):
        assert stopped.wait(PATIENCE)


def test_what_has_ended_is_not_stopped() -> None:
    """After the block nothing is called any more: the connection may serve another request by then."""
    first, second = threading.Event(), threading.Event()
    deadline = Deadline(SOON)
    with deadline.stopping(first.set):
        pass
    with deadline.stopping(second.set):
        assert second.wait(PATIENCE)
    second.clear()
    deadline.stop()
    assert not first.is_set()
    assert not second.is_set()


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_a_client_that_hangs_up_stops_what_runs(pair: tuple[socket.socket, socket.socket], how: str) -> None:
    """A thread that waits for a silent upstream does not see its own client leave; the watchdog does."""
    ours, theirs = pair
    stopped = threading.Event()
    deadline = Deadline(LONG, ours)
    with deadline.stopping(stopped.set):
        started = time.monotonic()
        theirs.close() if how == "close" else theirs.shutdown(socket.SHUT_WR)
        assert stopped.wait(PATIENCE)
        assert time.monotonic() - started < 1
    with pytest.raises(ClientGone):
        deadline.check()


def test_a_client_that_has_gone_before_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    """It need not leave while the watchdog looks."""
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ClientGone):
        Deadline(LONG, ours).wait(PATIENCE)


def test_a_client_that_sends_more_has_not_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    """Waiting bytes (a second request on the connection) are no hang-up."""
    ours, theirs = pair
    theirs.send(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TimedOut):
        Deadline(3 * SOON, ours).wait(PATIENCE)


def test_one_client_that_leaves_stops_no_other(pair: tuple[socket.socket, socket.socket]) -> None:
    """Each socket belongs to its own request."""
    stopped, other = threading.Event(), threading.Event()
    ours, theirs = pair
    mine, yours = socket.socketpair()
    with mine, yours, Deadline(LONG, mine).stopping(other.set), Deadline(LONG, ours).stopping(stopped.set):
        theirs.close()
        assert stopped.wait(PATIENCE)
    assert not other.is_set()


def test_a_socket_that_is_closed_here_does_not_blind_the_watchdog(pair: tuple[socket.socket, socket.socket]) -> None:
    """A closed descriptor can't be polled; the others still are, and its deadline still counts."""
    ours, theirs = pair
    mine, yours = socket.socketpair()
    mine.close()
    yours.close()
    closed, stopped = threading.Event(), threading.Event()
    with Deadline(3 * SOON, mine).stopping(closed.set), Deadline(LONG, ours).stopping(stopped.set):
        theirs.close()
        assert stopped.wait(PATIENCE)
        assert closed.wait(PATIENCE)


def test_wait() -> None:
    """It sleeps as long as asked where there is time."""
    started = time.monotonic()
    Deadline(LONG).wait(0.05)
    assert 0.05 <= time.monotonic() - started < 1


def test_wait_ends_at_the_deadline() -> None:
    """And raises then, not after the whole pause."""
    started = time.monotonic()
    with pytest.raises(TimedOut):
        Deadline(SOON).wait(LONG)
    assert SOON <= time.monotonic() - started < SOON + 0.5


def test_remaining_is_never_negative() -> None:
    """What is handed to a socket as timeout must not be."""
    assert Deadline(-5).remaining() == 0
    assert LONG - 1 < Deadline(LONG).remaining() <= LONG


def test_keeping() -> None:
    """Inside, the deadline comes earlier; outside it is as before."""
    deadline = Deadline(10)
    with deadline.keeping(4):
        assert 5 < deadline.remaining() <= 6
        deadline.check()
    assert 9 < deadline.remaining() <= 10


def test_keeping_more_than_there_is() -> None:
    """What is left belongs to those behind: it raises at once, and leaves the deadline as it was."""
    deadline = Deadline(10)
    with pytest.raises(TimedOut), deadline.keeping(11):
        pytest.fail("nothing may begin")
    deadline.check()


def test_keeping_bounds_what_runs_inside() -> None:
    """The watchdog stops at the earlier deadline."""
    stopped = threading.Event()
    deadline = Deadline(LONG)
    with deadline.keeping(LONG - SOON), deadline.stopping(stopped.set):
        assert stopped.wait(PATIENCE)
    deadline.check()


AFTER_FORK = """
    import os, threading
    from llm_api.runtime.deadline import Deadline

    def stopped_in(seconds):
        stopped = threading.Event()
        with Deadline(seconds).stopping(stopped.set):
            return stopped.wait(20)

    assert stopped_in(0.05)
    with Deadline(60).stopping(print):  # so that a running request of the parent is there at the fork
        child = os.fork()
        if not child:
            os._exit(7 if stopped_in(0.05) else 8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert stopped_in(0.05)
"""


def test_after_a_fork_the_child_has_a_watchdog_of_its_own() -> None:
    """Threads do not survive a fork: without a new one every deadline in a worker would be void."""
    ended = python("-c", textwrap.dedent(AFTER_FORK))
    assert (ended.stdout, ended.stderr) == ("7\n", "")


def test_an_idle_watchdog_wakes_up() -> None:
    """After a pause with nothing to watch the next request is watched again."""
    for _ in range(3):
        with pytest.raises(TimedOut):
            Deadline(0.02).wait(LONG)
        threading.Event().wait(0.12)  # longer than the watchdog's tick, so that it goes to sleep
