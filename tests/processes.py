"""Two processes of one gloo group, kept alive for a module's tests: each test is a function that both of them call."""

import faulthandler
import multiprocessing
import pickle
import traceback
import warnings
from datetime import timedelta
from multiprocessing.connection import wait

import pytest
import torch
import torch.distributed as dist

RANKS = 2
PATIENCE = 120  # seconds until a process that hangs prints its stack and dies; on an idle machine a client takes < 1


def serve(rank, rendezvous, pipe):
    """What each process does: call the functions that come through the pipe, send back what they return or raise."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    group = {"init_method": f"file://{rendezvous}", "rank": rank, "world_size": RANKS}
    dist.init_process_group("gloo", timeout=timedelta(seconds=PATIENCE), **group)
    while True:
        function, args, kwargs = pickle.loads(pipe.recv_bytes())
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            answer = (True, function(*args, **kwargs))
        except Exception:
            answer = (False, traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(pickle.dumps(answer))


class Pair:
    """The two processes. They start with the first call, and anew after one that failed."""

    def __init__(self, folder):
        self.folder, self.starts = folder, 0
        self.processes, self.pipes = [], []

    def start(self):
        """Spawned, not forked: torch's threads do not survive a fork."""
        self.starts += 1
        spawn = multiprocessing.get_context("spawn")
        for rank in range(RANKS):
            pipe, theirs = spawn.Pipe()
            rendezvous = str(self.folder / f"rendezvous{self.starts}")
            process = spawn.Process(target=serve, args=(rank, rendezvous, theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(pipe)

    def stop(self):
        """End both, whatever they do."""
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.terminate()
            process.join()
            process.close()
            pipe.close()
        self.processes, self.pipes = [], []

    def __call__(self, function, *args, **kwargs):
        """What the function returned in each process; AssertionError with the traceback of the first that failed.

        The function is found by its name in its module, arguments and answers are pickled.
        """
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((function, args, kwargs)))
        answers, pending = {}, dict(zip(self.pipes, range(RANKS), strict=True))
        while pending:
            for pipe in wait(list(pending)):
                rank = pending.pop(pipe)
                answers[rank] = self.receive(rank, pipe)
        return [answers[rank] for rank in range(RANKS)]

    def receive(self, rank, pipe):
        """One answer; when it is an error the other process may wait for ever, so both end."""
        try:
            good, answer = pickle.loads(pipe.recv_bytes())
        except EOFError:
            good, answer = False, "it died; what it printed is in the captured stderr"
        if not good:
            self.stop()
            raise AssertionError(f"process {rank} failed:\n{answer}")
        return answer


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes for the tests of one module."""
    processes = Pair(tmp_path_factory.mktemp("gloo"))
    yield processes
    processes.stop()
