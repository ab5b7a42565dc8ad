"""Runs fairseq commands in forked copies of one process that has imported fairseq.

Importing fairseq takes about six seconds, a tiny training less than one. Each command is
what its console script does (``sys.exit(cli_main())`` with ``sys.argv`` set) in a process of
its own; the plug-in is not imported before the fork, so ``--user-dir`` works as always.

Requests and answers are lines of JSON on two pipes. A request holds commands that are to
run at the same time; the answer holds their exit statuses, negative for signals.
"""

import json
import logging
import os
import signal
import sys
import time

import fairseq.checkpoint_utils
import fairseq.criterions
import fairseq.models
import fairseq.options
import fairseq.sequence_generator
import fairseq.tasks
import fairseq.trainer  # noqa: F401
import sentencepiece  # noqa: F401
import torch._dynamo  # noqa: F401  (torch's optimizers import it)


def serve(requests, answers):
    """Answer requests; return the command to be run, in the process that is to run it."""
    for line in requests:
        request = json.loads(line)
        children = []
        for command in request["commands"]:
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                return command
            children.append(child)
        answers.write(json.dumps(wait(children, request["timeout"])) + "\n")
        answers.flush()
    return None


def wait(children, seconds):
    """Return the exit statuses; what runs longer than ``seconds`` is killed."""
    statuses, deadline = {}, time.monotonic() + seconds
    while len(statuses) < len(children):
        for child in children:
            if child in statuses:
                continue
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                statuses[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[child] for child in children]


def become(command):
    """Take over the streams, the folder and the environment of a command."""
    for number, (name, mode) in enumerate(
        [("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)]
    ):
        file = os.open(command[name], mode)
        os.dup2(file, number)
        os.close(file)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.argv = command["argv"]


def set_logging_back(command):
    """fairseq-train sets up logging before it imports fairseq, which then changes nothing."""
    if command["argv"][0] == "fairseq-train":
        root = logging.getLogger()
        root.setLevel(logging.WARNING)
        for handler in list(root.handlers):
            root.removeHandler(handler)


if __name__ == "__main__":
    job = serve(os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w"))
    if job is not None:
        become(job)
        set_logging_back(job)
        exec(compile(job["before"], "before.py", "exec"), {"__name__": "before"})
        if job["module"] is not None:
            module = __import__(job["module"], fromlist=["cli_main"])
            sys.exit(module.cli_main())
