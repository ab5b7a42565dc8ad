"""The page, the budgets and the arithmetic of ``gpu_check.py``; nothing here needs torch."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import check_page
import check_process
import check_steps
import gpu_check
import pytest
from check_page import FAILED, LEFT_OUT, PASSED, RUNNING, STOPPED, WAITING, Page, Section
from check_steps import Check, Failed, LeftOut

MACHINE = {
    "memory GiB": 79.1,
    "packages": {"pytest": "9"},
    "peaks": {
        "bf16": {"data sheet": 0.0, "measured": 2e12},
        "fp16": {"data sheet": 9e12, "measured": 2e12},
    },
}


def check(device="cuda", **options):
    return Check(device, ["fairseq", "hf"], machine=dict(MACHINE), **options)


def steps(*functions):
    return [
        gpu_check.Step(f"s{number}", f"Step {number}", 50, function)
        for number, function in enumerate(functions)
    ]


def go(tmp_path, functions, ends=1000.0, now=lambda: 0.0, found=None):
    """Carry out steps made of functions; return the page."""
    made = steps(*functions)
    page = Page(tmp_path / "page.md", "# Head", [Section(s.title, s.seconds) for s in made])
    gpu_check.carry_out_all(made, found or check(), page, ends, now)
    return page


def raising(error):
    def step(check, seconds):
        raise error

    return step


# ------------------------------------------------------------------------------- the page


def test_the_page_says_what_became_of_each_step(tmp_path):
    page = go(
        tmp_path,
        [
            lambda check, seconds: "| a |\n|---|\n| 1 |",
            raising(LeftOut("no network | here")),
            raising(Failed("exit status 1", "the end")),
            raising(Failed("ended after 50 s", "a half", is_over_budget=True)),
            lambda check, seconds: 1 / 0,
        ],
    )
    outcomes = [section.outcome for section in page.sections]
    assert outcomes == [PASSED, LEFT_OUT, FAILED, STOPPED, FAILED]
    text = page.path.read_text()
    assert text.startswith("# Head\n\n| step | outcome | took | may take | remark |\n")
    assert "\n| Step 1 | left out | 0 s | 50 s | no network \\| here |\n" in text
    assert "## Step 0\n\npassed\n\n| a |\n|---|\n| 1 |\n\n## Step 1\n" in text
    assert "## Step 3\n\nstopped: ended after 50 s\n\na half\n" in text
    assert "ZeroDivisionError" in text
    assert list(tmp_path.iterdir()) == [page.path]


def test_the_page_is_written_before_and_after_each_step(tmp_path):
    seen = []

    def look(check, seconds):
        seen.append((tmp_path / "page.md").read_text())
        return f"body {len(seen)}"

    go(tmp_path, [look, look])
    assert "## Step 0" in seen[0] and "## Step 1" not in seen[0]
    assert f"| Step 0 | {RUNNING} |" in seen[0] and f"| Step 1 | {WAITING} |" in seen[0]
    assert f"| Step 0 | {PASSED} |" in seen[1] and "body 1" in seen[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_end_from_outside_leaves_what_was_measured(error, tmp_path, monkeypatch):
    monkeypatch.setattr(check_process, "stop_all", lambda: None)
    with pytest.raises(type(error)):
        go(tmp_path, [lambda check, seconds: "body 1", raising(error)])
    text = (tmp_path / "page.md").read_text()
    assert "body 1" in text
    assert f"| Step 1 | {STOPPED} |  | 50 s | the whole check was ended from outside |" in text


# ------------------------------------------------------------------------------- budgets


def test_a_step_gets_its_budget_or_what_is_left(tmp_path):
    given, clock = [], iter([0, 70, 95])

    def step(check, seconds):
        given.append(seconds)
        return ""

    page = go(tmp_path, [step, step, step], ends=100, now=lambda: next(clock))
    assert given == [50, 30]
    last = page.sections[2]
    assert (last.outcome, last.remark) == (LEFT_OUT, "5 s are left of the whole budget")


def test_without_a_machine_the_other_steps_are_left_out(tmp_path):
    empty = Check("cuda", [])
    page = go(tmp_path, [raising(Failed("no GPU")), lambda check, seconds: "x"], found=empty)
    assert [s.outcome for s in page.sections] == [FAILED, LEFT_OUT]
    assert page.sections[1].remark == "the step Step 0 found no machine"


def is_running(pid):
    """Whether a process still runs after the moment that a signal needs."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state == "Z":  # ended, but nobody has asked for its status
            return False
        time.sleep(0.05)
    return True


def test_what_is_over_its_budget_ends_with_its_children():
    done = check_process.run(["sh", "-c", "sleep 60 & echo $!; echo half; wait"], 1)
    child, word = done.output.split()
    assert done.is_over_budget and done.status != 0 and word == "half"
    assert not is_running(int(child))


def test_a_command_within_its_budget():
    done = check_process.run(["sh", "-c", "sleep 60 & echo $!; echo e >&2; exit 3"], 50)
    child, word = done.output.split()
    assert (done.status, done.is_over_budget, word) == (3, False, "e")
    assert not is_running(int(child))  # which the command had left behind


def test_a_signal_ends_the_commands_and_leaves_the_page(tmp_path):
    """A real process, whose first step is a command that would run for a minute."""
    code = (
        "import sys, gpu_check, check_steps\n"
        "def sleep(check, seconds):\n"
        "    return check.run(['-c', 'import time; print(1, flush=True); time.sleep(60)'], 60)\n"
        "gpu_check.STEPS[0].run = sleep\n"
        "sys.exit(gpu_check.main(['--steps', 'machine', '--output', sys.argv[1]]))\n"
    )
    page = tmp_path / "page.md"
    process = subprocess.Popen(
        [sys.executable, "-c", code, page],
        env={**os.environ, "PYTHONPATH": str(check_steps.HERE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("== Machine")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert f"| Machine | {STOPPED} |" in page.read_text()


# --------------------------------------------------------------------------- single steps


def done(output="", status=0, is_over_budget=False):
    return check_process.Done(status, output, 1.0, is_over_budget)


def test_the_command_line():
    args = gpu_check.parse_args(["--steps", "train-bf16", "--device", "cpu"])
    assert args.steps == ["machine", "train-bf16"] and args.compile is False
    args = gpu_check.parse_args([])
    assert args.compile is True and args.minutes < 10
    assert args.steps == [step.name for step in gpu_check.STEPS]
    assert gpu_check.parse_args(["--no-compile"]).compile is False


def test_peaks_of_unknown_gpus_are_measured_ones():
    assert check_steps.peak_of(MACHINE, "fp16") == (9.0, "data sheet")
    peak, source = check_steps.peak_of(MACHINE, "bf16")
    assert peak == 2.0 and source.startswith("measured here")


def test_a_report_of_pytest():
    report = (
        '<testsuites><testsuite><testcase classname="a" name="b"/>'
        '<testcase classname="a" name="c"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="d"><failure message="1 != 2">long</failure></testcase>'
        '<testcase classname="a" name="e"><error>broken</error></testcase>'
        "</testsuite></testsuites>"
    )
    counts, reasons = check_steps.count_tests(report)
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    assert reasons == [("a.c", "no GPU"), ("a.d", "1 != 2"), ("a.e", "broken")]


def test_the_files_of_the_gpu_tests_are_found():
    names = {path.name for path in check_steps.files_with_gpu_tests()}
    assert "test_devices.py" in names and "test_flops.py" not in names


def test_every_backend_that_exists_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(check_steps, "ROOT", tmp_path)
    plain = [("pytorch_ddp", None), ("legacy_ddp", None), ("no_c10d", None)]
    assert check_steps.existing_backends(check()) == plain
    (tmp_path / "fairtale" / "distributed").mkdir(parents=True)
    stages = [("fsdp2", 1), ("fsdp2", 2), ("fsdp2", 3)]
    assert check_steps.existing_backends(check()) == plain + stages
    assert check_steps.existing_backends(check(backends=["fsdp2"])) == stages


def test_losses_that_differ_are_a_failure(monkeypatch):
    def run(self, words, seconds):
        words = [str(word) for word in words]
        losses = [4.0, 3.0 if "no_c10d" in words and "bf16" in words else 2.0]
        return done("log\n" + json.dumps({"group": "nccl", "wrapper": "W", "losses": losses}))

    monkeypatch.setattr(Check, "run", run)
    with pytest.raises(Failed, match="the backends' losses differ in bf16") as error:
        check_steps.backends_step(check(backends=["legacy_ddp", "no_c10d"]), 60)
    assert "0.0e+00 in fp32, 1.0e+00 in bf16, 0.0e+00 in fp16" in error.value.body
    assert "| no_c10d | bf16 | ran | nccl | W | 4.0000 | 3.0000 |" in error.value.body


def test_a_backend_that_fails_is_named_and_the_others_are_run(monkeypatch):
    def run(self, words, seconds):
        if "fsdp2" in words:
            return done("Traceback\nNCCL error", status=1)
        return done(json.dumps({"group": "nccl", "wrapper": "W", "losses": [2.0]}))

    monkeypatch.setattr(Check, "run", run)
    pairs = [("legacy_ddp", None), ("fsdp2", 1)]
    monkeypatch.setattr(check_steps, "existing_backends", lambda check: pairs)
    with pytest.raises(Failed, match="3 of 6 did not end well") as error:
        check_steps.backends_step(check(), 60)
    assert "| fsdp2 --shard-stage 1 | fp16 | exit status 1: NCCL error |" in error.value.body
    assert "| legacy_ddp | fp16 | ran |" in error.value.body


def test_on_a_cpu_one_backend_and_one_precision_cannot_run():
    row, losses, _ = check_steps.backend_row(check("cpu"), ("pytorch_ddp", None, "fp32"), 9)
    assert row[2].startswith("left out") and losses == []
    with pytest.raises(LeftOut, match="fp16 on a CPU"):
        check_steps.train_step(check("cpu"), "fp16", "training", 9)
    with pytest.raises(LeftOut, match="the larger model on a CPU"):
        check_steps.train_step(check("cpu"), "bf16", "large", 9)


def test_a_benchmark_gets_the_peak_and_its_own_budget(monkeypatch):
    called = []

    def run(self, words, seconds):
        called.append([str(word) for word in words])
        return done("noise\n\n## Title\n\nwhen and where\n\n| a |\n")

    monkeypatch.setattr(Check, "run", run)
    monkeypatch.setattr(check_steps, "why_not_compile", lambda: "")
    body = check_steps.train_step(check(), "bf16", "training", 50)
    assert body.startswith("when and where\n\n| a |\n\nPeak: 2 TFLOP/s, measured here")
    (words,) = called
    assert "--compile" in words and words[words.index("--peers") + 1 :][:2] == ["fairseq", "hf"]
    assert words[-4:] == ["--peak-tflops", "2", "--seconds", "40"]


def test_if_a_peer_fails_the_rest_is_still_measured(monkeypatch):
    def run(self, words, seconds):
        if "hf" in words:
            return done("error: an entrant failed", status=1)
        return done("## Title\n\nwhen\n\nours\n")

    monkeypatch.setattr(Check, "run", run)
    with pytest.raises(Failed, match="only a part could be measured") as error:
        check_steps.generate_step(check(), "fp16", 50)
    assert "ours" in error.value.body and "an entrant failed" in error.value.body


@pytest.mark.parametrize(("memory", "rows"), [(79.1, 16), (39.4, 8), (23.6, 4), (14.6, 2)])
def test_smaller_gpus_get_smaller_updates(memory, rows):
    found = check()
    found.machine["memory GiB"] = memory
    assert check_steps.rows_of(found, "large") == ["--rows", rows]
    assert check_steps.rows_of(check("cpu"), "training") == []


def test_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert check_steps.why_not_compile() == "torch.compile needs a C compiler, and there is none"


def test_tables():
    assert (
        check_page.table(["a", "b"], [[1, "x|y\nz"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y z |"
    )
    assert check_page.tail("\n".join("abc"), 2) == "    b\n    c"


def test_rounds_end_with_the_seconds(monkeypatch):
    """``--seconds`` of every benchmark: one round is always timed."""
    import common

    clock = SimpleNamespace(
        monotonic=iter([0, 10, 20, 30]).__next__, perf_counter=time.perf_counter
    )
    monkeypatch.setattr(common, "time", clock)
    ran = []
    cpu = SimpleNamespace(type="cpu")
    found = common.alternate({"a": lambda: ran.append(1)}, 9, 2, cpu, "wall", 15)
    assert len(found["a"]) == 2 and len(ran) == 4
