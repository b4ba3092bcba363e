#!/usr/bin/env python3
"""A real Slurm on this machine, for development, tests and trying out: several nodes, fake GPUs, everything under one folder.

    python3 slurm/local/cluster.py up --root /tmp/slurm-local [--nodes 4] [--accounting]
    eval "$(python3 slurm/local/cluster.py env --root /tmp/slurm-local)"      # sbatch, squeue, cifar-hpc now speak to it
    python3 slurm/local/cluster.py kill-node n2 --root /tmp/slurm-local       # a power cut; start-node brings it back
    python3 slurm/local/cluster.py down --root /tmp/slurm-local

Needs Debian's or Ubuntu's packages slurmctld slurmd slurm-client munge (with --accounting also slurmdbd mariadb-server-core
mariadb-client-core) and the standard library; no systemd, no cgroups, nothing outside the root but a marked line in /etc/hosts.
As root every node is a namespace of its own, with its own host name. As another user nodes share the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from slurm.local.config import Site, write_config
from slurm.local.daemons import CLUSTER_VARIABLE, NODE_VARIABLE, Daemons, port_answers, wait_until

SBIN = Path("/usr/sbin")
HOSTS = Path("/etc/hosts")
PACKAGES = "slurmctld slurmd slurm-client munge"
OUTER_JOB = ("SLURM_", "SBATCH_", "SRUN_", "SUBMITIT_", "SLURMD_")  # variables of a job that this may itself run in


def is_installed() -> bool:
    """Whether the programs of a cluster without accounting are on this machine."""
    return all(
        shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}") for name in ("slurmctld", "slurmd", "munged", "sbatch")
    )


class Cluster:
    """One cluster. Two may stand side by side on different roots and ports."""

    def __init__(self, site: Site, die_with_parent: bool = False) -> None:
        if len(str(site.root)) > 60:
            raise ValueError(f"{site.root}: too long for the sockets below it; take a root of at most 60 characters")
        self.site = site
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OUTER_JOB)}
        self.environment = {**inherited, "SLURM_CONF": str(site.slurm_conf), CLUSTER_VARIABLE: str(site.root)}
        self.daemons = Daemons(site.root, self.environment, die_with_parent)

    @classmethod
    def load(cls, root: Path) -> Cluster:
        """The cluster that `up` described in root. Raises FileNotFoundError where there is none."""
        plain: dict[str, Any] = json.loads((root / "run/cluster.json").read_text())
        return cls(Site(**{**plain, "root": Path(plain["root"]), "nodes": tuple(plain["nodes"])}))

    def up(self) -> float:
        """Starts everything and waits until every node is idle; seconds taken."""
        began = time.monotonic()
        site = self.site
        running = [name for name in self._names() if self.daemons.pid(name)]
        if running:
            raise RuntimeError(f"{', '.join(running)} of {site.root} already runs; `down` first")
        taken = [port for port in site.ports if port_answers(port)]
        if taken:
            raise RuntimeError(f"ports in use: {taken}; choose another --port")
        write_config(site)
        (site.root / "run/cluster.json").write_text(json.dumps({**dataclasses.asdict(site), "root": str(site.root)}))
        self._name_hosts(True)
        self._start_munge()
        if site.accounting:
            self._start_accounting()
        self.start_controller()
        for name in site.nodes:
            self.start_node(name)
        wait_until(self._all_idle, 60, "nodes idle", 0.05)
        return time.monotonic() - began

    def down(self, purge: bool = False) -> None:
        """Cancels what is queued and running, then ends every process. purge: removes the root, too."""
        if self.daemons.pid("slurmctld"):
            with contextlib.suppress(subprocess.TimeoutExpired, TimeoutError):
                for state in (["--state=PENDING"], []):
                    self.run("scancel", "--quiet", *state, "-u", str(os.getuid()), check=False, timeout_s=20)
                wait_until(lambda: not self.run("squeue", "-h", check=False).strip(), 8, "an empty queue", 0.1)
        for name in self.site.nodes:
            self.daemons.end(f"slurmd.{name}", signal.SIGKILL if self.site.isolated else signal.SIGTERM)
        self.daemons.kill_strays()
        for name in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.daemons.end(name)
        self._name_hosts(False)
        if purge:
            shutil.rmtree(self.site.root, ignore_errors=True)

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0) -> str:
        """Runs a Slurm command against this cluster; its output, errors included. Raises CalledProcessError where `check`."""
        done = subprocess.run(
            command,
            env=self.environment,
            timeout=timeout_s,
            check=check,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout

    def start_controller(self) -> None:
        self.daemons.start("slurmctld", [str(SBIN / "slurmctld"), "-D"])
        self.daemons.wait_ready("slurmctld", lambda: port_answers(self.site.port))

    def stop_controller(self) -> None:
        """In order: with SIGKILL it would forget the jobs of the last seconds, which it writes down every five."""
        self.daemons.end("slurmctld")

    def keep_controller(self) -> bool:
        """Starts it again where it has died: 22.05 does so now and then while nodes fail. Whether it had."""
        if died := self.daemons.pid("slurmctld") is None:
            self.start_controller()
        return died

    def start_node(self, name: str) -> None:
        (self.site.root / "spool" / name).mkdir(parents=True, exist_ok=True)
        slurmd = [str(SBIN / "slurmd"), "-D", "-N", name]
        if self.site.isolated:
            # SIGKILL to the outer process is a power cut: the kernel ends the whole pid namespace. bash is its first process,
            # since slurmd in that place would leave ended steps as zombies.
            inner = f"hostname {name} && {{ {' '.join(slurmd)} & wait $!; }}"
            namespaces = ["--pid", "--uts", "--mount", "--fork", "--kill-child=KILL", "--mount-proc"]
            slurmd = ["unshare", *namespaces, "bash", "-c", inner]
        self.daemons.start(f"slurmd.{name}", slurmd, **{NODE_VARIABLE: name})

    def kill_node(self, name: str, tell: bool = False) -> None:
        """A power cut: slurmd and all that it started. tell: marks the node DOWN at once, as a health check would."""
        self.daemons.end(f"slurmd.{name}", signal.SIGKILL)
        self.daemons.kill_strays(name)
        if tell:
            self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=power cut")

    @contextlib.contextmanager
    def hidden(self, name: str, folder: Path) -> Iterator[None]:
        """While inside, the node sees an empty folder there, as where a file system is not mounted. Of isolated nodes only."""
        outer = self.daemons.pid(f"slurmd.{name}")
        inner = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0]
        on_node = ["nsenter", "--target", inner, "--mount", "--pid"]
        subprocess.run([*on_node, "mount", "-t", "tmpfs", "none", str(folder)], check=True)
        try:
            yield
        finally:
            subprocess.run([*on_node, "umount", "--lazy", str(folder)], check=True)

    def _names(self) -> list[str]:
        return ["munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd.{name}" for name in self.site.nodes)]

    def _all_idle(self) -> bool:
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False).splitlines()
        return sorted(lines) == sorted(f"{name} idle" for name in self.site.nodes)

    def _start_munge(self) -> None:
        root, socket_path = self.site.root, self.site.munge_socket
        for stale in root.glob("run/munge.sock*"):
            stale.unlink()
        files = {
            "key-file": "etc/munge.key",
            "pid-file": "run/munged.own.pid",
            "log-file": "log/munged.log",
            "seed-file": "run/seed",
        }
        options = [f"--{option}={root / path}" for option, path in files.items()]
        self.daemons.start("munged", [str(SBIN / "munged"), "--foreground", f"--socket={socket_path}", *options])
        check = ["munge", "-n", "-S", str(socket_path)]
        self.daemons.wait_ready("munged", lambda: subprocess.run(check, capture_output=True).returncode == 0, 10)

    def _start_accounting(self) -> None:
        """slurmdbd must answer before the controller's first start, which registers the cluster in it."""
        root, port = self.site.root, self.site.port
        common = ["--no-defaults", f"--user={self.site.user}", f"--datadir={root}/db"]
        if not (root / "db/mysql").is_dir():
            options = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
            subprocess.run(["mariadb-install-db", *common, *options], check=True, capture_output=True)
        options = [
            f"--socket={root}/run/mysql.sock",
            f"--pid-file={root}/run/mariadbd.own.pid",
            "--bind-address=127.0.0.1",
            f"--port={port + 2}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-lock-wait-timeout=900",
            f"--init-file={root}/etc/init.sql",
        ]
        self.daemons.start("mariadbd", [str(SBIN / "mariadbd"), *common, *options])
        self.daemons.wait_ready("mariadbd", lambda: port_answers(port + 2))
        self.daemons.start("slurmdbd", [str(SBIN / "slurmdbd"), "-D"])
        self.daemons.wait_ready("slurmdbd", lambda: port_answers(port + 1))

    def _name_hosts(self, add: bool) -> None:
        """One marked line of /etc/hosts, so that the nodes' names resolve; lines of clusters that are gone are removed."""
        mark = "  # cifar-hpc local cluster "
        try:
            old = HOSTS.read_text().splitlines()
            new = [line for line in old if mark not in line or self._lives(line.rsplit(mark, 1)[1])]
            if add and self.site.isolated:
                new.append(f"127.0.0.1 {' '.join(self.site.nodes)}{mark}{self.site.root}")
            if new != old:
                HOSTS.write_text("\n".join(new) + "\n")  # in place: in a container the file is a mount
        except PermissionError:
            print("cannot write /etc/hosts: the nodes' names will not resolve", file=sys.stderr)

    def _lives(self, root: str) -> bool:
        return Path(root) != self.site.root and Daemons(Path(root), {}).pid("munged") is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "command", choices=["up", "down", "env", "kill-node", "start-node", "stop-controller", "start-controller"]
    )
    parser.add_argument("node", nargs="?", help="of kill-node and start-node: n1, n2, ...")
    parser.add_argument("--root", type=Path, default=Path("/tmp/slurm-local"))
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus", type=int, default=16, help="of a node")
    parser.add_argument("--gpus", type=int, default=4, help="fake ones, of a node")
    parser.add_argument("--port", type=int, default=17000)
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    arguments = parser.parse_intermixed_args()
    root = arguments.root.resolve()
    if arguments.command == "up":
        if not is_installed():
            sys.exit(f"Slurm is not installed: apt-get install --no-install-recommends {PACKAGES}")
        site = Site(
            root=root,
            nodes=tuple(f"n{index + 1}" for index in range(arguments.nodes)),
            cpus=arguments.cpus,
            gpus=arguments.gpus,
            accounting=arguments.accounting,
            isolated=os.getuid() == 0,
            port=arguments.port,
        )
        seconds = Cluster(site).up()
        print(f'{arguments.nodes} nodes idle after {seconds:.1f} s; now: eval "$(python3 {sys.argv[0]} env --root {root})"')
        return
    try:
        cluster = Cluster.load(root)
    except FileNotFoundError:
        sys.exit(f"no cluster under {root}")
    if arguments.command.endswith("-node") and arguments.node not in cluster.site.nodes:
        parser.error(f"{arguments.command} needs one of {', '.join(cluster.site.nodes)}")
    match arguments.command:
        case "down":
            cluster.down(purge=True)
        case "env":
            print(f"export SLURM_CONF={cluster.site.slurm_conf} {CLUSTER_VARIABLE}={root}")
        case "kill-node":
            cluster.kill_node(arguments.node)
        case "start-node":
            cluster.start_node(arguments.node)
        case "stop-controller":
            cluster.stop_controller()
        case "start-controller":
            cluster.start_controller()


if __name__ == "__main__":
    main()
