"""A federation of real processes on this machine: a SuperLink, and SuperNodes that each have a folder of their own.

    python -m fedtiny_lite.flower.loopback --out results/flower

Nothing leaves the machine: addresses are 127.0.0.1, telemetry and the check for updates are off.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fedtiny_lite.config import Config, make_config, parse_settings
from fedtiny_lite.flower.folders import hand_over
from fedtiny_lite.flower.guard import Guard
from fedtiny_lite.flower.keys import make_keys
from fedtiny_lite.records.files import ROOT
from fedtiny_lite.records.schema import read_record
from fedtiny_lite.simulation import checkpoint
from fedtiny_lite.simulation.setup import resolved
from fedtiny_lite.simulation.stopping import exit_status

HOST = "127.0.0.1"
OFFLINE = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
STARTED_WITHIN = 60  # seconds
DEMO = dict(clients=3, rounds=6, samples=600, adjust_until=6)
"""Settings of `make flower-demo` that differ from profile digits."""


class Loopback:
    """A SuperLink, and a SuperNode for each client of `config`: processes that end with the `with` block.

    They end with this process too, however it ends.

    `folder`: everything is below it: `server` and `client0` … with samples, Flower's own files, and `logs`.
    `secrets`: where `keys.make_keys` left certificates and keys, to use TLS and to let registered nodes in alone.
    """

    def __init__(self, config: Config, folder: Path, secrets: Path | None = None) -> None:
        self.config, self.folder, self.secrets = config, folder.resolve(), secrets and secrets.resolve()
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Loopback":
        hand_over(self.config, self.folder)
        for name in ("logs", "flwr"):
            (self.folder / name).mkdir(exist_ok=True)
        self._write_connection()
        self.guard = Guard()
        try:
            self.start_link()
            for k in range(self.config.clients):
                if self.secrets:
                    self.command("supernode", "register", self.secrets / f"client{k}.pub", "loopback")
                self.start_node(k)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start_link(self) -> None:
        """Start the SuperLink and wait until it listens. Raises RuntimeError if it does not."""
        options = ["--host", HOST, "--port", self.port, "--disable-runtime-dependency-installation"]
        options += ["--database", self.folder / "flwr" / "link.db"]
        if self.secrets:
            options += ["--enable-supernode-auth", "--ssl-ca-certfile", self.secrets / "ca.crt"]
            options += ["--ssl-certfile", self.secrets / "server.pem", "--ssl-keyfile", self.secrets / "server.key"]
        process = self._start("superlink", "flower-superlink", *options, *self._insecure())
        until = time.monotonic() + STARTED_WITHIN
        while not listens(self.port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the SuperLink did not start; see {self.log('superlink')}")
            time.sleep(0.1)

    def start_node(self, k: int, name: str | None = None, key: Path | None = None) -> None:
        """Start client k's SuperNode. `key`: its private key, if not the one that was made for it."""
        told = f'client={k} folder="{self.folder / f"client{k}"}"'
        options = ["--superlink", f"{HOST}:{self.port}", "--port", free_port(), "--node-config", told]
        if self.secrets:
            options += ["--root-certificates", self.secrets / "ca.crt"]
            options += ["--auth-supernode-private-key", key or self.secrets / f"client{k}"]
        self._start(name or f"client{k}", "flower-supernode", *options, *self._insecure())

    def submit(self, config: Config, round_timeout: float = 0, stream: bool = True) -> Path:
        """Submit a run and, with `stream`, print its log until it has ended. Where its record will be.

        `config` may differ from the one that samples were handed out for in what does not concern samples.
        """
        self.command(*self._run(config, round_timeout), *(["--stream"] if stream else []))
        return self.record_of(config)

    def record_of(self, config: Config) -> Path:
        """Where the record of a run will be."""
        return self.folder / "runs" / resolved(config).run_id / "record.json"

    def rounds(self, config: Config, round_timeout: float = 0) -> Iterator[dict[str, Any]]:
        """Submit a run; the record's entry of each round, as soon as the server has kept it.

        Raises RuntimeError, with the end of the log, for a run that ends unfinished.
        """
        config = resolved(config)
        path, seen = self.record_of(config), 0
        process = self._start("run", "flwr", *self._run(config, round_timeout), "--stream")
        try:
            while True:
                ended, record = process.poll() is not None, so_far(path, config)
                yield from record["rounds"][seen:]
                seen = max(seen, len(record["rounds"]))
                if record["complete"]:
                    return
                if ended:
                    raise RuntimeError(f"the run ended after {seen} rounds: {self.log('run').read_text()[-500:]}")
                time.sleep(0.2)
        finally:
            if "run" in self.processes:
                self.kill("run")

    def _run(self, config: Config, round_timeout: float) -> list[object]:
        settings = shlex.join(f"{name}={value}" for name, value in config.everything().items())
        told = {"settings": settings, "out": str(self.folder), "holdings": str(self.folder / "server")}
        given = [f"{name}={_quoted(value)}" for name, value in told.items()]
        given.append(f"round-timeout={float(round_timeout)}")
        return ["run", ROOT, "loopback", "--run-config", " ".join(given)]

    def command(self, *arguments: object) -> None:
        """Execute `flwr` with these arguments. Raises CalledProcessError if it fails, which a failed run is not."""
        subprocess.run([tool("flwr"), *map(str, arguments)], env=self._environment(), check=True)

    def log(self, name: str) -> Path:
        """Where a process writes its log."""
        return self.folder / "logs" / f"{name}.log"

    def kill(self, name: str) -> None:
        """End a process and all that it has started, without a chance to say so."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        process = self.processes.pop(name)
        process.wait()
        self.guard.release(process.pid)

    def stop(self) -> None:
        """End all processes, the SuperLink last; those that do not end by themselves are killed."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for name in [*reversed(self.processes)]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[name].wait(10)
            self.kill(name)
        self.guard.close()

    def _start(self, name: str, command: str, *options: object) -> subprocess.Popen:
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [tool(command), *map(str, options)],
                env=self._environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.guard.watch(self.processes[name].pid)
        return self.processes[name]

    def _insecure(self) -> list[str]:
        return [] if self.secrets else ["--insecure"]

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return os.environ | OFFLINE | {"FLWR_HOME": str(self.folder / "flwr"), "PATH": path}

    def _write_connection(self) -> None:
        """The file in which `flwr` looks for SuperLinks."""
        secure = f'root-certificates = "{self.secrets / "ca.crt"}"' if self.secrets else "insecure = true"
        text = f'[superlink]\ndefault = "loopback"\n\n[superlink.loopback]\naddress = "{HOST}:{self.port}"\n{secure}\n'
        (self.folder / "flwr" / "config.toml").write_text(text)


def _quoted(text: str) -> str:
    """A text for `flwr run`, which takes what stands between two quotation marks, and reads that as TOML."""
    return '"' + json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', "\\u0022") + '"'


def tool(name: str) -> str:
    """The path of one of Flower's commands, beside this Python."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return found.getsockname()[1]


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as found:
        return found.connect_ex((HOST, port)) == 0


def so_far(path: Path, config: Config) -> dict[str, Any]:
    """The record at `path`, or what its checkpoint holds of it; one without rounds where neither is there.

    A checkpoint goes when the record has come, and is then looked for in vain.
    """
    if path.exists():
        return read_record(path)
    with contextlib.suppress(FileNotFoundError, ValueError):
        return checkpoint.record_in(path.parent, config)
    return {"rounds": [], "complete": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """One run on this machine's loopback; the last line printed is the path of its record."""
    parser = argparse.ArgumentParser(prog="python -m fedtiny_lite.flower.loopback", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/flower"), help="folder for everything")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="key=value", help="settings of the run"
    )
    parser.add_argument("--secrets", type=Path, help="folder of certificates and keys, made if it is empty: TLS")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    return exit_status(lambda: _demonstrate(options.set, options.out, options.secrets))


def _demonstrate(settings: Sequence[str], out: Path, secrets: Path | None) -> int:
    config = make_config(DEMO, **parse_settings(settings))
    if secrets:
        make_keys(secrets, config.clients, HOST)
    with Loopback(config, out, secrets) as loopback:
        path = loopback.submit(config)
    record = read_record(path)
    print(f"test accuracy {record['final']['test_accuracy']:.4f}, complete: {record['complete']}")
    print(path)
    return 0 if record["complete"] else 1


if __name__ == "__main__":
    sys.exit(main())
