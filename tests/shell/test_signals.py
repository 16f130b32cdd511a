"""A run that is asked to stop ends after a whole step; asked twice, at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from cli_cases import ROOT

from fnopt import SGD, Batches, compiled, load_checkpoint, make_step, run, stop_on_signal, value_and_grad
from fnopt.compile.interrupt import Guard
from fnopt.compile.program import Program

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def handlers():
    """What is set for both."""
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_stay():
    """Whatever happens in a test, afterwards the handlers are those from before."""
    before = handlers()
    yield
    assert handlers() == before


@BOTH
def test_the_first_is_noted(number):
    """Nothing is raised, and everybody can see which it was."""
    with stop_on_signal() as stop:
        assert (bool(stop), stop.requested, stop.signal, stop.status) == (False, False, None, 0)
        signal.raise_signal(number)
        assert (bool(stop), stop.requested, stop.signal, stop.status) == (True, True, number, 128 + number)


@BOTH
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_the_block_at_once(first, number):
    """As Ctrl-C does, or with the status of a SIGTERM; handlers are back before anything is cleaned up."""
    before, after = handlers(), []
    with pytest.raises(BaseException) as caught, stop_on_signal():  # noqa: PT011, PT012
        signal.raise_signal(first)
        try:
            signal.raise_signal(number)
        finally:
            after.append(handlers())
    if number == signal.SIGINT:
        assert caught.type is KeyboardInterrupt
    else:
        assert (caught.type, caught.value.code) == (SystemExit, 143)
    assert after == [before]


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_handlers_come_back(error):
    """Also when the block raises, and those of an outer block."""
    before = handlers()
    try:
        with stop_on_signal() as outer:
            mine = handlers()
            assert mine != before
            with stop_on_signal() as inner:
                signal.raise_signal(signal.SIGTERM)
                assert (inner.requested, outer.requested) == (True, False)
            assert handlers() == mine
            if error:
                raise error
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert handlers() == before


def test_what_is_ignored_stays_ignored():
    """A job that a shell put into the background ignores Ctrl-C, and still does."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signal() as stop:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_sets_nothing():
    """It could not, and what it runs goes on."""
    before, seen = handlers(), []

    def work():
        with stop_on_signal() as stop:
            seen.append((stop.requested, handlers()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_exit_says_where_and_with_which_status(capsys):
    """One line and 143; nothing where nobody asked."""
    with stop_on_signal() as stop:
        stop.exit("nowhere")
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        stop.exit("run/last.safetensors")
    assert caught.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM; saved run/last.safetensors\n"


@BOTH
def test_kernels_that_write_are_not_cut(number, monkeypatch):
    """A signal while a compiled step writes is noted after it; the state is the next one, whole."""
    step = compiled(make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.5)))
    state, _ = step.step(step.init_state({"w": torch.ones(())}), torch.ones(2))
    call = Program.__call__

    def pressed(self, inputs):
        signal.raise_signal(number)
        return call(self, inputs)

    monkeypatch.setattr(Program, "__call__", pressed)
    with stop_on_signal() as stop:
        state, _ = step.step(state, torch.ones(2))
        assert stop.requested
    assert (state.position, float(state.params["w"])) == (2, 0.0)


def test_the_guard_hands_on_to_the_block():
    """Ctrl-C inside a guard reaches the block's own handler, and is no KeyboardInterrupt."""
    with stop_on_signal() as stop:
        with Guard():
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
        assert stop.requested


# Processes, and real signals

SCRIPT = """
import sys, time, torch, fnopt

calls = 0

def loss(params, x):
    global calls
    calls += 1
    print("step", flush=True)
    time.sleep(0.1)
    while calls == int(sys.argv[1]):
        time.sleep(0.01)
        print("asked" if stop.requested else "hanging", flush=True)
    return (params["w"] * x).sum(), len(x)

step = fnopt.make_step(fnopt.value_and_grad(loss), fnopt.SGD(0.1))
state = step.init_state({"w": torch.ones(())})
with fnopt.stop_on_signal() as stop:
    for state, metrics in fnopt.run(step, state, fnopt.Batches([1.0, 2.0], batch_size=1), updates=10**6):
        if stop.requested:
            break
    fnopt.save_checkpoint("last.safetensors", state)
stop.exit("last.safetensors")
"""


def started(folder, hangs_in=0):
    """A process of that script, in its third step."""
    where = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(hangs_in)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=folder, env=where, **pipes)
    for _ in range(3):
        assert process.stdout.readline() == "step\n"
    return process


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_process_saves_within_a_step(number, tmp_path):
    """The step that runs is the last one; the file holds it, stderr says where, the status is 128 + the signal."""
    process = started(tmp_path)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == f"stopped by {number.name}; saved last.safetensors\n"
    step = make_step(value_and_grad(lambda params, x: ((params["w"] * x).sum(), len(x))), SGD(0.1))
    first = step.init_state({"w": torch.ones(())})
    state = load_checkpoint(tmp_path / "last.safetensors", like=first)
    assert state.position == 3 + output.count("step")
    assert output.count("step") <= 1  # the signal may have come between two steps
    *_, (expected, _) = run(step, first, Batches([1.0, 2.0], batch_size=1), updates=state.position)
    assert state == expected


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_second_signal_ends_a_process_in_the_middle_of_a_step(number, tmp_path):
    """It does not wait for a step that never ends, and saves nothing."""
    process = started(tmp_path, hangs_in=3)
    process.send_signal(number)
    while process.stdout.readline() != "asked\n":
        pass
    assert process.poll() is None  # one signal is not enough
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGINT if number == signal.SIGINT else 143)
    assert list(tmp_path.iterdir()) == []
