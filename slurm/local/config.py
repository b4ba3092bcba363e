"""The configuration files of the local cluster: what each of its daemons reads. Starts nothing.

Written for Slurm 22.05 and later as Debian packs it. Timings are short, so that a lost node, a requeue and a scheduling
round take seconds. Every line that is not obvious says why it stands.
"""

from __future__ import annotations

import os
import pwd
import socket
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Site:
    """What the cluster looks like. root: absolute, short (a socket's path may have 107 bytes). port: first of its ports."""

    root: Path
    nodes: tuple[str, ...]
    cpus: int = 16  # a node claims as many as this, whatever the machine has
    memory_mb: int = 64000
    gpus: int = 4
    accounting: bool = False
    isolated: bool = True  # every node in its own pid, host name and mount namespace: needs root
    port: int = 17000
    node_timeout_s: int = 30  # a silent node is DOWN after this and some 15 s more
    extra: str = ""  # further lines of slurm.conf

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    @property
    def host(self) -> str:
        return socket.gethostname().split(".")[0]

    @property
    def munge_socket(self) -> Path:
        return self.root / "run/munge.sock"

    @property
    def slurm_conf(self) -> Path:
        return self.root / "etc/slurm.conf"

    @property
    def ports(self) -> list[int]:
        """Controller, accounting, data base, then one for each node."""
        return [self.port, self.port + 1, self.port + 2, *(self.node_port(i) for i in range(len(self.nodes)))]

    def node_port(self, index: int) -> int:
        return self.port + 11 + index


def write_config(site: Site) -> None:
    """Makes the folders and writes every file under root/etc and root/dev."""
    for name in ("etc", "run", "log", "state", "spool", "dev", "db"):
        (site.root / name).mkdir(parents=True, exist_ok=True)
    site.root.chmod(0o755)  # munged refuses a socket below a folder that others cannot enter
    key = site.root / "etc/munge.key"
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
    site.slurm_conf.write_text(_slurm_conf(site))
    # Nothing here uses cgroups, yet slurmd loads a plugin, and its choice by itself fails in containers.
    (site.root / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    if site.gpus:
        (site.root / "etc/gres.conf").write_text(_gres_conf(site))
    if site.accounting:
        _write_secret(site.root / "etc/slurmdbd.conf", _slurmdbd_conf(site))
        (site.root / "etc/init.sql").write_text(_INIT_SQL)


def _slurm_conf(site: Site) -> str:
    root, nodes = site.root, ",".join(site.nodes)
    lines = f"""\
ClusterName=local
SlurmctldHost={site.host}(127.0.0.1)
SlurmUser={site.user}
SlurmdUser={site.user}
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job waits so long before it may start again (default 120 s)
AuthInfo=socket={site.munge_socket},cred_expire=5
SlurmctldPort={site.port}
SlurmdPort={site.port + 10}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.own.pid
SlurmdPidFile={root}/run/slurmd.%n.own.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
PropagateResourceLimits=NONE
ReturnToService=2
MailProg=/bin/true
# nodes may claim more CPUs and memory than the machine has
SlurmdParameters=config_overrides
MaxArraySize=100001
MaxJobCount=200000
JobRequeue=1
# a new cluster must not give out the ids of an old one again: result files bear them
FirstJobId={int(time.time() / 10) % 60_000_000 + 1}
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=100000,bf_interval=2,default_queue_depth=1000,bf_max_job_array_resv=1
KillWait=5
SlurmdTimeout={site.node_timeout_s}
SlurmctldTimeout=30
MessageTimeout=30
TCPTimeout=2
CompleteWait=0
UnkillableStepTimeout=30
BatchStartTimeout=20
MinJobAge=300
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets the signal that it asked for, not SIGTERM alone
SlurmctldParameters=preempt_send_user_signal
PriorityType=priority/basic
""".splitlines()
    if site.accounting:
        lines += f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={site.port + 1}
# the connection to slurmdbd does not look at AuthInfo
AccountingStoragePass={site.munge_socket}
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
""".splitlines()
    else:
        lines += ["AccountingStorageType=accounting_storage/none", "JobAcctGatherType=jobacct_gather/none"]
    if site.gpus:
        lines.append("GresTypes=gpu")
    gres = f" Gres=gpu:{site.gpus}" if site.gpus else ""
    for index, name in enumerate(site.nodes):
        lines.append(
            f"NodeName={name} NodeHostname={name if site.isolated else site.host} NodeAddr=127.0.0.1 "
            f"Port={site.node_port(index)} CPUs={site.cpus} RealMemory={site.memory_mb}{gres} State=UNKNOWN"
        )
    limits = "MaxTime=INFINITE DefaultTime=60 State=UP"
    lines.append(f"PartitionName=main Nodes={nodes} Default=YES {limits} PriorityTier=10 PreemptMode=OFF")
    lines.append(f"PartitionName=scavenge Nodes={nodes} Default=NO {limits} PriorityTier=1 PreemptMode=REQUEUE GraceTime=10")
    return "\n".join([*lines, *site.extra.splitlines()]) + "\n"


def _gres_conf(site: Site) -> str:
    """Fake GPUs: any character device is counted and named in CUDA_VISIBLE_DEVICES, so links to /dev/null will do."""
    for index in range(site.gpus):
        link = site.root / f"dev/gpu{index}"
        if not link.is_symlink():
            link.symlink_to("/dev/null")
    names = "gpu0" if site.gpus == 1 else f"gpu[0-{site.gpus - 1}]"
    return f"NodeName={','.join(site.nodes)} Name=gpu File={site.root}/dev/{names}\n"


def _slurmdbd_conf(site: Site) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={site.munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={site.port + 1}
SlurmUser={site.user}
LogFile={site.root}/log/slurmdbd.log
PidFile={site.root}/run/slurmdbd.own.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={site.port + 2}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""


_INIT_SQL = """\
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


def _write_secret(path: Path, text: str) -> None:
    """slurmdbd reads its file only where nobody else can."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as stream:
        stream.write(text)
