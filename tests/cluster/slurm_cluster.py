"""A Slurm cluster of two nodes on this machine, run by whoever calls it: munge, slurmctld and two slurmd.

    python tests/cluster/slurm_cluster.py start FOLDER     # prints the variable to export
    python tests/cluster/slurm_cluster.py stop FOLDER

Everything of it lies in the folder: nothing of a Slurm that runs here is read or touched. On Debian the programs are
those of slurm-wlm and munge. There is no slurmdbd, as on many small clusters, so `sacct` knows nothing.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")
NODES = ("node1", "node2")
WAIT_S = 60

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=1
InactiveLimit=0
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4096
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4096
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Programs that a cluster needs and that are not here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(folder: Path) -> dict[str, str]:
    """What a process needs to know of the cluster, beside its own environment."""
    return {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}


def start(folder: Path) -> None:
    """Start the cluster and wait until both nodes are idle.

    Raises:
        RuntimeError: It did not come up; the text has the ends of its logs.
    """
    munge = folder / "munge"
    munge.mkdir(parents=True, mode=0o700)
    (folder / "state").mkdir()
    key = munge / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    host = socket.gethostname().partition(".")[0]
    text = CONFIG.format(folder=folder, host=host, user=user, ports=_free_ports(3))
    (folder / "slurm.conf").write_text(text)
    _spawn(
        folder,
        "munged",
        "--foreground",
        "--force",
        f"--socket={munge}/socket",
        f"--key-file={key}",
        f"--pid-file={munge}/pid",
        f"--log-file={munge}/log",
        f"--seed-file={munge}/seed",
    )
    _wait(folder, (munge / "socket").exists)
    _spawn(folder, "slurmctld", "-D")
    for node in NODES:
        _spawn(folder, "slurmd", "-D", "-N", node)
    _wait(folder, lambda: _idle(folder) == len(NODES))


def stop(folder: Path) -> None:
    """Cancel every job and end the processes that `start` began."""
    _ask(folder, "scancel", "--user", str(os.getuid()))
    _wait(folder, lambda: not _ask(folder, "squeue", "--noheader"), fatal=False)
    for pid in reversed([int(line) for line in (folder / "pids").read_text().split()]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    _wait(folder, lambda: not any(_alive(int(pid)) for pid in (folder / "pids").read_text().split()), fatal=False)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster, as the environment of what is to use it."""
    try:
        start(folder)
        yield environment(folder)
    finally:
        stop(folder)


def _spawn(folder: Path, *command: str) -> None:
    with (folder / "daemons.log").open("a") as log:
        process = subprocess.Popen(
            [str(shutil.which(command[0], path=_path())), *command[1:]],
            env={**os.environ, **environment(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with (folder / "pids").open("a") as pids:
        pids.write(f"{process.pid}\n")


def _ask(folder: Path, *command: str) -> str:
    env = {**os.environ, **environment(folder)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def _idle(folder: Path) -> int:
    return _ask(folder, "sinfo", "--noheader", "--Node", "--format=%T").split().count("idle")


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def _wait(folder: Path, condition: Callable[[], object], fatal: bool = True) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end:
            if not fatal:
                return
            logs = [f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(folder.rglob("*log"))]
            raise RuntimeError("the cluster did not come up.\n" + "\n".join(logs))
        time.sleep(0.1)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    place = Path(sys.argv[2]).resolve()
    if sys.argv[1] == "start":
        if lacking := missing():
            sys.exit(f"These programs are not here: {', '.join(lacking)}. Debian: apt-get install slurm-wlm munge")
        start(place)
        sys.stdout.write(f"export SLURM_CONF={place}/slurm.conf\n")
    else:
        stop(place)
