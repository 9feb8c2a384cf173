"""What runs in the engine's process: llama.cpp's server, for as long as somebody holds a lease.

Begun by engine.py as a program of its own, so it imports nothing of the service. Its argument is a JSON object. The
lock that says that it lives is inherited, as the descriptor `lock` of its folder, and never unlocked.
"""

import fcntl
import json
import os
import resource
import secrets
import select
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

IDLE_SECONDS = 2.0
# What llama.cpp has to say goes to a file, which clients' mistakes must not fill the disk with.
MAX_OUTPUT_BYTES = 2**20
# Each request holds one, also while it waits for a slot.
HTTP_THREADS = 128
# Conversations whose slot has gone to others are kept in memory; llama.cpp would take 8 GiB for that.
CACHE_MIB = 512
# Of so long a text a vector is made at most: a prompt is read in pieces, and a text for a vector in one.
VECTOR_TOKENS = 2048
CANT_LOAD = 3
CANT_FETCH = 4
STUCK = 5
# Longer than a processor takes for the tokens of a prompt that are read in one step.
STUCK_SECONDS = 300
PACKAGE = Path(__file__).parents[2]

# Open connections, each of which says that its user needs this process.
leases: set[socket.socket] = set()


def main() -> None:
    """Serve the model until nobody has held a lease for two seconds, or its folder is gone: nobody finds it then."""
    asked = json.loads(sys.argv[1])
    # It ends when its users have: a terminal or a supervisor tells all of them at once, and answers are still to leave.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(asked["lease"])
    listener.listen(128)
    loaded, tell = socket.socketpair(type=socket.SOCK_DGRAM)  # one line is one message
    hold_leases(listener, loaded, threading.Thread(target=load, args=(asked, tell)), asked["lock"])
    if is_linked(asked["lock"]):
        for name in ("lease", "http"):
            Path(asked[name]).unlink(missing_ok=True)
    os._exit(0)  # a C++ server's destructors may wait for ever


def load(asked: dict[str, Any], tell: socket.socket) -> None:
    """Serve at the socket `asked["http"]`, then write to `tell` what a user must know: one line of JSON.

    Until then the lines say what it is doing.
    """
    try:
        if asked["is_remote"]:
            projector = asked["projector"]
            asked |= fetched(asked["model"], tell)
            asked["projector"] = projector or asked["projector"]
        began, key = time.monotonic(), secrets.token_hex()

        def ready() -> None:
            told = {"pid": os.getpid(), "key": key, "seconds": time.monotonic() - began}
            tell.sendall(json.dumps(told | {name: asked[name] for name in ("size", "starts")}).encode())

        (llama_cpp if asked["model"].endswith(".gguf") else transformers)(asked, key, ready)
    except BaseException:
        traceback.print_exc()
        time.sleep(0.2)  # llama.cpp writes what it has to say in a thread of its own
        os._exit(CANT_LOAD)


def fetched(named: str, tell: socket.socket) -> dict[str, Any]:
    """Return where the model of that name is, once it is on this machine."""
    sys.path.insert(0, str(PACKAGE.parent))
    from llm_api.backends.local.hub import CantFetch, fetch

    try:
        return fetch(named, lambda words: tell.sendall(json.dumps({"doing": words}).encode()))
    except CantFetch as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        os._exit(CANT_FETCH)


def llama_cpp(asked: dict[str, Any], key: str, ready: Callable[[], None]) -> None:
    """Run llama.cpp's server, which has threads of its own."""
    import xllamacpp

    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT_BYTES, MAX_OUTPUT_BYTES))
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    if asked["projector"]:
        params.mmproj.path = asked["projector"]
    params.model_alias = {asked["name"]}
    params.n_parallel = asked["slots"]
    params.n_ctx = asked["context"] * asked["slots"]
    params.kv_unified = False  # in a common cache, answers depended on the requests beside them
    params.cache_ram_mib = CACHE_MIB
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = asked["threads"]
    params.n_threads_http = max(HTTP_THREADS, 4 * asked["slots"])
    params.hostnames = [asked["http"]]
    params.api_keys = [key]
    params.endpoint_metrics = True
    params.embedding = True
    params.n_ubatch = min(VECTOR_TOKENS, asked["context"])
    if not asked["pools"]:
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.ui = params.warmup = False
    params.verbosity = 1  # errors
    # It holds Python's lock while it loads, so no lease is looked at: the kernel ends the process when a user goes, by
    # the signal SIGIO (fcntl(2)). Other users begin it again.
    watch_leases(True)
    server = xllamacpp.Server(params)
    watch_leases(False)
    ready()
    mind(asked["http"], key)
    del server


def mind(path: str, key: str) -> None:
    """End this process when llama.cpp's one loop is stuck, as in the grammar of a schema: nobody is answered then."""
    question = f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n".encode()
    while True:
        time.sleep(STUCK_SECONDS / 10)
        # one that is not let in, since many come at once, has asked nothing
        with socket.socket(socket.AF_UNIX) as loop, suppress(ConnectionError, BlockingIOError):
            loop.settimeout(STUCK_SECONDS)
            try:
                loop.connect(path)
                loop.sendall(question)
                loop.recv(1)
            except TimeoutError:
                sys.stderr.write(f"it was stuck for {STUCK_SECONDS} s\n")
                sys.stderr.flush()
                os._exit(STUCK)


def watch_leases(watched: bool) -> None:
    """Let the kernel end this process when one of the leases ends, or no longer."""
    for lease in [lease for lease in list(leases) if lease.fileno() >= 0]:
        flags = fcntl.fcntl(lease, fcntl.F_GETFL) & ~os.O_ASYNC
        fcntl.fcntl(lease, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lease, fcntl.F_SETFL, flags | (os.O_ASYNC if watched else 0))
        if watched and select.select([lease], [], [], 0)[0]:  # gone before it was watched
            os._exit(0)


def transformers(asked: dict[str, Any], key: str, ready: Callable[[], None]) -> None:
    """Run a server of a model in transformers."""
    import asyncio

    sys.path.insert(0, str(PACKAGE.parent))
    from llm_api.backends.local.wire import Server

    asyncio.run(Server(asked, key).run(ready))


def is_linked(folder: int) -> bool:
    """Whether the open folder has a name still."""
    return os.fstat(folder).st_nlink > 0


def hold_leases(listener: socket.socket, loaded: socket.socket, loading: threading.Thread, folder: int) -> None:
    """Return when no lease has been held for two seconds: an open connection, which gets the lines of `loaded`.

    With the first of them, `loading` begins. Also where `folder` is gone.
    """
    hello, since = b"", time.monotonic()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(loaded, selectors.EVENT_READ)
    while is_linked(folder) and (leases or time.monotonic() - since < IDLE_SECONDS):
        for found, _ in selector.select(IDLE_SECONDS if leases else IDLE_SECONDS / 10):
            sock = found.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                lease, _ = listener.accept()
                leases.add(lease)
                if loading.ident is None:
                    loading.start()
                selector.register(lease, selectors.EVENT_READ)
                say(hello, [lease])
            elif sock is loaded:
                hello = loaded.recv(4096) + b"\n"
                say(hello, leases)
            else:  # it has nothing to say but that it is gone
                selector.unregister(sock)
                sock.close()
                leases.remove(sock)
                since = time.monotonic()


def say(hello: bytes, users: Iterable[socket.socket]) -> None:
    """Write the line to the users."""
    for lease in users:
        with suppress(OSError):
            lease.sendall(hello)


if __name__ == "__main__":
    main()
