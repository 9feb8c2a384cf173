"""Figure 14: a request costs its prompt once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from .loads import Service, eventually, figure
from .upstreams import HEAD, TEXT, UNTIL_CLOSED, WIRES, Peer, Script, Upstream, Wire

KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
Way = Callable[[Peer, bytes], None]


def drop(peer: Peer, body: bytes) -> None:
    """The request was read, and the connection closed."""


def drop_in_the_head(peer: Peer, body: bytes) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-")


def drop_in_the_body(peer: Peer, body: bytes) -> None:
    peer.send(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:-5]))


def be_silent(peer: Peer, body: bytes) -> None:
    peer.wait_until_gone()


def say_nonsense(peer: Peer, body: bytes) -> None:
    peer.send(UNTIL_CLOSED + b"nonsense")


def redirect(peer: Peer, body: bytes) -> None:
    peer.send(b"HTTP/1.1 307 Go\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")


def keep_and_drop_the_next(peer: Peer, body: bytes) -> None:
    """The connection is reused; what comes over it is read, and the connection closed."""
    peer.send(KEPT % (len(body), body))
    peer.stays = True


def keep_and_close(peer: Peer, body: bytes) -> None:
    """The connection is kept, and closed before it is reused."""
    peer.send(KEPT % (len(body), body))


def status(code: int) -> Way:
    def say(peer: Peer, body: bytes) -> None:
        wait = "retry-after: 1\r\nretry-after-ms: 1"
        peer.send(f"HTTP/1.1 {code} No\r\n{wait}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())

    say.__name__ = f"status {code}"
    return say


def well(peer: Peer, body: bytes) -> None:
    peer.send(UNTIL_CLOSED + body)


# Each way to answer, and how often the upstream is asked at most: only statuses that say that nothing was done are
# asked again, where all of these together don't come too often for that.
ONCE: Mapping[Way, int] = dict.fromkeys(
    (well, drop, drop_in_the_head, drop_in_the_body, be_silent, say_nonsense, redirect, keep_and_close), 1
)
REFUSED = {status(code): 3 for code in (408, 409, 429, 500, 502, 503, 504, 529)}
FINAL = {status(code): 1 for code in (400, 401, 402, 403, 404, 413, 422)}
WAYS = ONCE | REFUSED | FINAL
STREAMED = " as a stream"


def all_of(far_ends: Mapping[Wire, Upstream]) -> dict[str, str]:
    """Return the settings of a service before these far ends, in their order, each of which a model may name."""
    settings = {"LLM_BACKEND": WIRES[0].name, "LLM_FALLBACK": ",".join(wire.name for wire in WIRES[1:])}
    addresses = {name: value for wire, far_end in far_ends.items() for name, value in wire.settings(far_end).items()}
    return addresses | settings | {"ALLOW_MODEL_CHOICE": "true"}


def test_one_post(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """Each request is executed once at most by each upstream, however that fails; refusals are asked again."""
    executed: Counter[tuple[str, str]] = Counter()
    asked: Counter[tuple[str, str]] = Counter()

    def script(wire: Wire) -> Script:
        def answer(peer: Peer) -> None:
            way = by_name.get(peer.wish["model"].removesuffix(STREAMED), well)
            body = wire.stream if peer.wish["stream"] else wire.whole
            asked[wire.name, way.__name__] += 1
            executed[wire.name, way.__name__] += way not in REFUSED and way not in FINAL
            way(peer, body)

        return answer

    by_name = {way.__name__: way for way in WAYS}
    far_ends = {wire: behind(script(wire)) for wire in WIRES}
    service = serve(WEB_CONCURRENCY=1, MAX_RETRIES=2, REQUEST_TIMEOUT=1, **all_of(far_ends))
    posts = again = 0
    for wire in WIRES:
        for name, way in by_name.items():
            for stream in (False, True):
                # not always at once: of a connection that is kept and then closed, the end may come after the answer
                eventually(lambda wire=wire: service.say(model=f"{wire.name}/well", fallback=False).text == TEXT)
                asked.clear()
                executed.clear()
                # a model of its own, since after five failures in a row it is left alone
                model = f"{wire.name}/{name}{STREAMED * stream}"
                answer = service.say(model=model, stream=stream, fallback=False)
                posts += 1
                assert asked.keys() == {(wire.name, name)}
                assert asked.total() <= WAYS[way], (name, answer.body)
                again += asked.total() > 1
                assert executed.total() <= 1
                assert answer.ok == (way in (well, keep_and_close)), (name, answer.body)
    assert again
    figure(14, f"{posts} requests over {len(WAYS)} ways to answer and {len(WIRES)} backends: none executed twice")


def test_a_chain_asks_each_once(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """When all upstreams of a chain drop the connection, each of them has had the request once."""
    far_ends = {wire: behind(lambda peer: None) for wire in WIRES}
    settings = all_of(far_ends)
    settings["LLM_FALLBACK"] += ",stub"
    service = serve(WEB_CONCURRENCY=1, MAX_RETRIES=2, **settings)
    answers = [service.generate(stream=stream) for stream in (False, True)]
    figure(14, f"a chain of 4 that drop 2 requests: {', '.join(str(far_end.asked) for far_end in far_ends.values())}")
    assert [far_end.asked for far_end in far_ends.values()] == [2] * 4
    assert {answer.headers["X-LLM-Fallback"] for answer in answers} == {"server_error"}


def test_reused_connections(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """A connection that was kept and drops with the second request on it may have delivered that: it is an error."""
    connections: list[int] = []

    def script(wire: Wire) -> Script:
        def drop_the_second(peer: Peer) -> None:
            connections.append(peer.port)
            if connections.count(peer.port) == 1:
                keep_and_drop_the_next(peer, wire.stream if peer.wish["stream"] else wire.whole)

        return drop_the_second

    far_ends = {wire: behind(script(wire)) for wire in WIRES}
    service = serve(WEB_CONCURRENCY=1, MAX_RETRIES=2, **all_of(far_ends))
    for wire, far_end in far_ends.items():
        for stream in (False, True):
            first = service.say(model=f"{wire.name}/x", fallback=False)
            asked = far_end.asked
            second = service.say(model=f"{wire.name}/x", fallback=False, stream=stream)
            assert (first.ok, second.code) == (True, "server_error")
            assert far_end.asked == asked + 1
            assert connections[-1] == connections[-2]
    figure(14, f"{2 * len(WIRES)} reused connections that drop with a request: none was sent again")
