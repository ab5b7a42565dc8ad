"""Runs commands in forked copies of one process that has imported fairseq.

Importing fairseq takes about six seconds, a tiny training less than one. Each command is
what its console script does (``sys.exit(cli_main())`` with ``sys.argv`` set) in a process of
its own; neither the plug-in nor ``fairtale`` is imported before the fork.

A client connects to the socket that is named on the command line, and sends one line of JSON with
its three streams. It is answered by two lines: the number of the process, and its exit status,
negative for a signal. If the client goes away, the command is killed. The server ends when its
standard input does.
"""

import array
import atexit
import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading

sys.path.pop(0)  # this folder

import fairseq.checkpoint_utils  # noqa: E402
import fairseq.criterions  # noqa: E402
import fairseq.models  # noqa: E402
import fairseq.options  # noqa: E402
import fairseq.sequence_generator  # noqa: E402
import fairseq.tasks  # noqa: E402
import fairseq.trainer  # noqa: E402, F401
import sentencepiece  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401  (torch's optimizers import it)


def receive(connection):
    """Return the request of a client and its streams; None if it has gone away."""
    streams, size = array.array("i"), array.array("i").itemsize
    data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(3 * size))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            streams.frombytes(content[: 3 * size])
    while data and not data.endswith(b"\n"):
        more = connection.recv(1 << 16)
        data = data + more if more else b""
    return (json.loads(data), list(streams)) if data and len(streams) == 3 else None


def tell(connection, number):
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


class Server:
    """Forks a process for each client, and tells the client how it ends."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.clients = {}  # number of the process -> connection
        # both ends are kept: if one was collected, the other would always be ready to be read
        self.ended, self.wake = socket.socketpair()
        for end in (self.ended, self.wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)

    def serve(self):
        """Serve until standard input ends; return the request, in the process that is to run it."""
        selector = selectors.DefaultSelector()
        for file in (self.listener, self.ended, sys.stdin):
            selector.register(file, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return None
                if key.fileobj is self.ended:
                    self.ended.recv(1 << 12)
                elif key.fileobj is self.listener:
                    request = self.start(selector, self.listener.accept()[0])
                    if request is not None:
                        selector.close()
                        return request
                else:  # a client has gone away before its command has ended
                    selector.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(key.data, signal.SIGKILL)
            self.tell_the_ends(selector)

    def start(self, selector, connection):
        """Fork; return the request in the new process, and None in this one."""
        received = receive(connection)
        if received is None:
            connection.close()
            return None
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            return received
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        for stream in received[1]:
            os.close(stream)
        self.clients[child] = connection
        selector.register(connection, selectors.EVENT_READ, child)
        tell(connection, child)
        return None

    def tell_the_ends(self, selector):
        while self.clients:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            connection = self.clients.pop(child)
            with contextlib.suppress(KeyError):
                selector.unregister(connection)
            tell(connection, os.waitstatus_to_exitcode(status))
            connection.close()


def become(request, streams, server):
    """Take over the streams, the folder and the environment of a command."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    server.listener.close()
    for connection in server.clients.values():
        connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:0] = [p for p in request["env"].get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.argv = request["argv"]


def set_logging_back(request):
    """Some commands set up logging before they import fairseq, which then changes nothing."""
    if request["module"] == "fairtale" or request["argv"][0] == "fairseq-train":
        root = logging.getLogger()
        root.setLevel(logging.WARNING)
        for handler in list(root.handlers):
            root.removeHandler(handler)


def end_at_once(status):
    """End a verb as Python does, but without taking apart what fairseq's import has made."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(request):
    """Run a command as its console script does."""
    set_logging_back(request)
    exec(compile(request["before"], "before.py", "exec"), {"__name__": "before"})
    if request["module"] == "fairtale":
        from fairtale.cli.main import main

        end_at_once(main())
    if request["module"] is not None:
        module = __import__(request["module"], fromlist=["cli_main"])
        sys.exit(module.cli_main())


if __name__ == "__main__":
    # at the end of a process, Python would look through all that the imports have made, which takes
    # longer than most commands, and copies its memory
    gc.collect()
    gc.freeze()
    server = Server(sys.argv[1])
    asked = server.serve()
    if asked is not None:
        become(*asked, server)
        run(asked[0])
