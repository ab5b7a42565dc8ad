"""A command that lets the fork server do its work; copies of this file have the commands' names.

It imports little, because it is started for each command of a shell script.
"""

import array
import json
import os
import signal
import socket
import sys

PYTHON, SOCKET = "@PYTHON@", "@SOCKET@"  # filled in where the copies are made


def request():
    """Return what to run, or None for a Python program other than ``python -m fairtale``."""
    name = os.path.basename(sys.argv[0])
    asked = {"cwd": os.getcwd(), "env": dict(os.environ), "before": ""}
    if name == "python":
        if sys.argv[1:3] != ["-m", "fairtale"]:
            return None
        return {**asked, "module": "fairtale", "argv": ["fairtale", *sys.argv[3:]]}
    module = "fairseq_cli." + name.removeprefix("fairseq-").replace("-", "_")
    return {**asked, "module": module, "argv": [name, *sys.argv[1:]]}


def start(asked, streams, path=SOCKET):
    """Send a request with its streams; return the connection, its answers, and the process."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
    data = (json.dumps(asked) + "\n").encode()
    sent = connection.sendmsg([data], rights)
    connection.sendall(data[sent:])
    answers = connection.makefile()
    return connection, answers, int(answers.readline())


def main():
    asked = request()
    if asked is None:
        os.execv(PYTHON, [PYTHON, *sys.argv[1:]])
    connection, answers, process = start(asked, [0, 1, 2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: os.kill(process, number))
    status = int(answers.readline())
    connection.close()
    if status < 0:  # end as the command did
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    main()
