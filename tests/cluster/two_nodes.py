"""Two nodes for torchrun on one machine: network namespaces joined by a cable, which all traffic goes over."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ADDRESSES = ("10.231.77.1", "10.231.77.2")
PORT = 29517
CABLE = "cable"  # name of the interface in each node


def missing() -> str:
    """Why there can't be namespaces here, "" where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian: iproute2)"
    tried = subprocess.run(["ip", "netns", "add", _name(9)], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"`ip netns add`: {tried.stderr.strip()}"
    _ip("netns", "del", _name(9))
    return ""


@contextlib.contextmanager
def two_nodes() -> Iterator[None]:
    """Two namespaces, each with a loopback of its own and one end of the cable."""
    try:
        for node in (0, 1):
            _ip("netns", "add", _name(node))
        _ip("link", "add", CABLE, "netns", _name(0), "type", "veth", "peer", "name", CABLE, "netns", _name(1))
        for node in (0, 1):
            _ip("-n", _name(node), "addr", "add", f"{ADDRESSES[node]}/24", "dev", CABLE)
            for interface in ("lo", CABLE):
                _ip("-n", _name(node), "link", "set", interface, "up")
        yield
    finally:
        for node in (0, 1):
            subprocess.run(["ip", "netns", "del", _name(node)], capture_output=True, check=False)


class Node:
    """torchrun with one process in one of the nodes.

    Args:
        node: 0 or 1.
        words: Of the train command.
        log: File for what it prints.
        environment: Beside the caller's own.
    """

    def __init__(self, node: int, words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        meeting = [f"--node-rank={node}", f"--master-addr={ADDRESSES[0]}", f"--master-port={PORT}"]
        command = [*torchrun, *meeting, "-m", "anomaly_lightning.train", *words]
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", _name(node), *command],
                env={**os.environ, **environment, "GLOO_SOCKET_IFNAME": CABLE},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=log.parent,
                start_new_session=True,
            )

    def wait(self, timeout: float) -> int:
        """Exit status."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Take the power from the node: everything in it is gone at once.

        The processes of a namespace can't be told from their session alone, for torchrun gives each rank one.
        """
        if self.process.poll() is None:
            for pid in _pids_within(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(60)


def _pids_within(parent: int) -> list[int]:
    """A process and all that descend from it, the parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(words[1]), []).append(int(stat.parent.name))
    found, waiting = [], [parent]
    while waiting:
        found.append(waiting.pop(0))
        waiting += children.get(found[-1], [])
    return found


def _name(node: int) -> str:
    return f"anomaly{os.getpid()}n{node}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
