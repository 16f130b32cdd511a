"""The promises, each with what is run for the page: the full harness, the controls that must turn it red, the peers."""

from collections.abc import Callable

import attrs
import crashes
import damages
import failing_steps
import fallbacks
import faults
import golden
import orders
import overheads
import payloads
import poisons
import refusals
import resumes
import snapshots
import straced
import sums
import training
from breaks import broken
from verdict import Verdict, isolated, total
from ways import PEERS, installed

Control = Callable[[str], Verdict]


@attrs.frozen
class Promise:
    """One row: `what` in the table, `about` below it; `controls` by what is broken, `peers` as texts by name."""

    what: str
    about: str
    run: Callable[[], Verdict]
    controls: dict[str, Control] = attrs.field(factory=dict[str, Control])
    peers: dict[str, Callable[[], str]] = attrs.field(factory=dict[str, Callable[[], str]])


def here(run: Callable[[], Verdict], *whats: str) -> dict[str, Control]:
    """Controls that run in this process."""

    def control(what: str) -> Verdict:
        with broken(what):
            return run()

    return dict.fromkeys(whats, control)


def elsewhere(module: str, function: str, *whats: str, **arguments: object) -> dict[str, Control]:
    """Controls that run in a process of their own."""
    return dict.fromkeys(whats, lambda what: isolated(module, function, broken=what, **arguments))


def _killed(way: str) -> Callable[[], str]:
    def run() -> str:
        if not installed(way):
            raise ImportError(way)
        facts = isolated("kills", "killed", way=way, kills=300).facts
        lost = {name: facts[name] for name in ("unreadable", "lost", "other bits")}
        return f"of {facts['kills']} kills, {facts['inside a save']} of them inside a save, " + _listed(lost)

    return run


def _limited(way: str) -> Callable[[], str]:
    def run() -> str:
        if not installed(way):
            raise ImportError(way)
        verdict = isolated("faults", "limited_for", name=way)
        return f"of {verdict.cases} saves that hit the limit, " + _listed(verdict.facts)

    return run


def _silent(peer: str) -> Callable[[], str]:
    def run() -> str:
        verdict = damages.silent(peer, 10_000, 1_000, 1_000)
        return f"{verdict.facts['silent']:,} of {verdict.cases:,} load silently as something else"

    return run


def _listed(facts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in facts.items())


def _crashed() -> Verdict:
    return total(crashes.managed(keep, asynchronous) for keep in (1, 2, 3) for asynchronous in (False, True))


def _crashed_twice() -> Verdict:
    return total([crashes.managed(1, saves=2), crashes.one_file()])


def _faulty() -> Verdict:
    swept = [faults.swept(fault, later) for fault in [*faults.FAULTS, "short"] for later in (False, True)]
    return total([*swept, faults.limited(13), faults.full_disk()])


def _payload_peers() -> str:
    return ", ".join(f"{reader} {count}" for reader, count in payloads.trusting().items())


FORGOTTEN = [f"{what} is forgotten" for what in ("position", "optimizer", "loss scale", "seed")]
PROMISES = {
    "P1": Promise(
        "SIGKILL at any instant",
        "A run with a state of 1 MB, dropout, shuffling and a loss scale saves after every step and is killed "
        "at random instants, every second time inside a save; each time it goes on from what is there. "
        "Unreadable: there is no state to go on from. Lost: a save had returned and is not there. Other bits: "
        "not those of the uninterrupted run.",
        lambda: total(isolated("kills", "killed", way=way, kills=500) for way in ("Managed", "OneKept", "OneFile")),
        elsewhere("kills", "killed", "written in place", way="OneFile", kills=100),
        {name: _killed(way) for way, name in PEERS.items()},
    ),
    "P2": Promise(
        "power failure at any call",
        "Every prefix of the recorded calls of saves with retention, and of a start after a crash; of what "
        "was not yet synced every subset (bytes by halves of the last write). The recorded calls are those "
        "that strace sees.",
        lambda: total([_crashed(), crashes.one_file(), crashes.restarted(), straced.compared()]),
        here(_crashed_twice, "no fsync", "no fsync of the folder", "written in place"),
    ),
    "P3": Promise(
        "a call of the disk fails",
        "Each call of a run in turn, from the first of a start to the last of the end, with ENOSPC, EIO, "
        "EACCES, EINTR or as a short write; the kernel's limit on a file at every few bytes; full file "
        "systems in memory. The error is handed over with its errno, the last save is there, and the next "
        "start leaves no litter. Others, under the limit: states that are lost, and saves that failed in "
        "silence.",
        _faulty,
        here(lambda: total([faults.swept("EIO"), faults.limited()]), "errors are swallowed", "written in place"),
        {name: _limited(way) for way, name in PEERS.items()},
    ),
    "P4": Promise(
        "damage is found",
        "Bits flipped, files cut, blocks zeroed or swapped, at random places of a file of 66 KB; and 1,000 "
        "good files, none of which raises an alarm.",
        lambda: total([damages.fnopt_files(10_000, 1_000, 1_000), damages.good_files(1_000)]),
        here(lambda: damages.fnopt_files(1_000, 100, 100), "no digest"),
        {peer: _silent(peer) for peer in damages.PEERS},
    ),
    "P5": Promise(
        "fallback, with one warning",
        "Every choice of broken files among four, by eight kinds of damage: restore, latest and best take the "
        "newest good one and say so once; an explicit path is that file or an error; where all are broken "
        "each is listed.",
        fallbacks.passed_over,
        here(fallbacks.passed_over, "nothing is passed over", "latest is not verified", "no digest"),
    ),
    "P6": Promise(
        "no code in a file runs",
        "Pickles that touch a file: as pickles, in old and new torch files, in the header and data of a "
        "checkpoint, as DCP metadata; behind links, under odd names; for every place that reads a file. "
        "Others: how many ran.",
        payloads.run,
        here(payloads.run, "pickles are trusted"),
        {"ran": _payload_peers},
    ),
    "P7": Promise(
        "hostile files cost little memory",
        "JSON, zip and pickle bombs, tensors of stride 0, 95 MB of one header, a million of anything: refused, "
        "with no more resident memory than the size of the file and 64 MB.",
        lambda: isolated("bombs", "bounded"),
        elsewhere("bombs", "bounded", "headers are trusted", "archives are trusted"),
    ),
    "P8": Promise(
        "resume from any step, to the bit",
        "Stop after each of 40 steps with accumulation over 3, dropout, autocast, a dynamic loss scale, EMA, "
        "clipping, a cosine schedule and shuffling, and go on to the end: in one process, and five times in "
        "fresh ones.",
        lambda: total([resumes.resumed(range(training.UPDATES + 1)), resumes.in_fresh_processes([0, 1, 13, 25, 39])]),
        here(lambda: resumes.resumed(range(0, 40, 8), ahead=5), *FORGOTTEN),
    ),
    "P9": Promise(
        "data order is a function",
        "Of seed, epoch, place, world size and rank: drawn alone, iterated from anywhere, through workers, or shared "
        "out to 1, 2, 3 and 4 processes, whose samples together are those of one.",
        lambda: total([orders.pure(32, 10), orders.elastic(16)]),
        here(lambda: total([orders.pure(2), orders.elastic(1)]), "orders are drawn anew", "ranks draw alike"),
    ),
    "P10": Promise(
        "nan and inf never enter the state",
        "Each of nan, inf and -inf in the loss, and at every entry of every gradient: all bits but loss scale and "
        "position stay, the skip is counted, the scale backed off; ten in a row are an error that names the tensor.",
        poisons.kept_out,
        here(lambda: poisons.kept_out(20), "what is not finite passes"),
    ),
    "P11": Promise(
        "a failing step changes nothing",
        "Out of memory, Ctrl-C or a bug at every operation of torch in a step, forward, backward and in the optimizer.",
        failing_steps.failed,
        here(lambda: failing_steps.failed(20), "updates are made in place"),
    ),
    "P12": Promise(
        "SIGTERM and SIGINT",
        "At random instants: the step is finished and saved, the exit status is 143 or 130, a line says "
        "where; a second signal ends the run at once, with its last save.",
        lambda: isolated("stops", "stopped", each=50),
        elsewhere("stops", "stopped", "signals have no status", each=3),
    ),
    "P16": Promise(
        "a load validates first",
        "Rows of the table of bad input: the type of the error, what it says, in one sentence, with nothing changed.",
        refusals.refused,
        here(refusals.refused, "mismatches pass", "no digest"),
    ),
    "P17": Promise(
        "micro-batches sum to the batch",
        "Unequal parts of 12 samples: within 1e-12 of the largest entry in float64, 1e-6 in float32.",
        sums.accumulated,
        here(sums.accumulated, "parts are weighed wrongly"),
    ),
    "P18": Promise(
        "retention keeps enough",
        "In the harness of P2: never fewer good files than min(keep, saves that returned), for keep 1, 2 and 3.",
        _crashed,
        here(lambda: crashes.managed(1), "deleted before durable"),
    ),
    "P19": Promise(
        "one writer in a folder",
        "Four processes at the same moment, and one that is killed while it holds the folder.",
        lambda: isolated("locks", "contended", rounds=200),
        elsewhere("locks", "contended", "everybody is dead", rounds=10),
    ),
    "P20": Promise(
        "old files load, later ones say so",
        "A committed file of every schema; ten later schemas are refused, naming the fnopt that made them.",
        golden.loaded,
        here(golden.loaded, "no migration", "newer schemas pass"),
    ),
    "P21": Promise(
        "an asynchronous save is a snapshot",
        "Every tensor is overwritten before a byte is written; and a compiled step takes the memory meanwhile.",
        lambda: total([snapshots.overwritten(1_000), snapshots.donated(50)]),
        here(lambda: snapshots.overwritten(100), "no snapshot"),
    ),
    "P22": Promise(
        "nothing is left behind",
        "10,000 steps and 1,000 saves, waiting and asynchronous: growth after the first fifth, below 1 MB.",
        lambda: total(isolated("soaks", "soaked", steps=10_000, saves=1_000, asynchronous=a) for a in (False, True)),
        elsewhere("soaks", "soaked", "descriptors leak", "states are kept", steps=300, saves=300),
    ),
    "P23": Promise(
        "what it costs, at 128 MiB",
        "A durable, hashed save takes at most 2.5 times as long as torch.save, which does not sync; the call "
        "of an asynchronous one as long as a copy of the state (and a tenth).",
        overheads.judged,
    ),
}
