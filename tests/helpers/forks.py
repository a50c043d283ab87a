"""Runs programs in forks of one process that has imported everything: a program then takes no seconds for its imports.

JAX starts its threads with its first computation. The server makes none, so a fork is a whole process, which may be
killed, wait for others, or see other devices. What a fork shares with the server: modules, their code, and the seed of
`hash`. Tests of those need a process of their own, and every study has one run in such a process.
"""

import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve()
FIXED = ("PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONWARNINGS", "MPLBACKEND")  # read when a process begins
LIMIT = 600.0  # seconds


class Child:
    """A program in a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, command: list[str], status: int, streams: dict[str, int]) -> None:
        self.args, self.returncode, self._status = command, None, os.fdopen(status, "rb", 0)
        self.pid = int(self._status.readline())
        self.stdin = os.fdopen(streams["stdin"], "w")
        self.stdout, self.stderr = os.fdopen(streams["stdout"]), os.fdopen(streams["stderr"])

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = LIMIT) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def communicate(self, timeout: float = LIMIT) -> tuple[str, str]:
        """What the streams still hold, once the program has ended."""
        self.stdin.close()
        with ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        self.stdout.close()
        self.stderr.close()
        return texts[0].result(), texts[1].result()


class Forks:
    """The server, seen from a test: `run` and `start` take what `subprocess.run` and `subprocess.Popen` take."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.environment = dict(os.environ)
        self.server = subprocess.Popen([sys.executable, HERE, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
        theirs.close()

    def close(self) -> None:
        self.socket.close()
        self.server.wait()

    def start(self, *command, env: dict[str, str] | None = None, cwd: os.PathLike | str | None = None) -> Child:
        """Start a script with its flags, or "-c", code, and arguments, or "-m", module, and arguments."""
        env = dict(os.environ) if env is None else env
        mine = {name for name in self.environment if name in FIXED or name.startswith("JAX_")}
        changed = {name for name in FIXED if env.get(name) != self.environment.get(name)} | (mine - set(env))
        if changed:
            raise ValueError(f"env: expected the server's {', '.join(sorted(changed))}; take a process of its own")
        command = [str(word) for word in command]
        pipes = {name: os.pipe() for name in ("stdin", "stdout", "stderr", "status")}
        theirs = [pipes["stdin"][0], *(pipes[name][1] for name in ("stdout", "stderr", "status"))]
        body = json.dumps([command, env, str(cwd or os.getcwd())]).encode()
        socket.send_fds(self.socket, [struct.pack("!Q", len(body))], theirs)
        self.socket.sendall(body)
        for end in theirs:
            os.close(end)
        ours = {"stdin": pipes["stdin"][1], **{name: pipes[name][0] for name in ("stdout", "stderr")}}
        return Child(command, pipes["status"][0], ours)

    def run(self, *command, timeout: float = LIMIT, **more) -> subprocess.CompletedProcess:
        """Run a program to its end, without input."""
        child = self.start(*command, **more)
        out, err = child.communicate(timeout)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)


# The server


def receive(connection: socket.socket) -> tuple[list, list[int]] | None:
    """The next request and its file descriptors; None when the tests have ended."""
    head, ends, *_ = socket.recv_fds(connection, 8, 4)
    if not head:
        return None
    (size,), body = struct.unpack("!Q", head), b""
    while len(body) < size:
        body += connection.recv(size - len(body))
    return json.loads(body), ends


def forked(connection: socket.socket) -> list | None:
    """The request that this process, a fork, is to answer; None in the server, once the tests have ended.

    Between the server and the program stands a process that waits for it and tells how it ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those between
    while request := receive(connection):
        (command, *rest), ends = request
        if os.fork():
            for end in ends:
                os.close(end)
            continue
        connection.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = ends.pop()
        pid = os.fork()
        for number, end in enumerate(ends):
            if not pid:
                os.dup2(end, number)
            os.close(end)
        if not pid:
            os.close(status)
            return [command, *rest]
        os.write(status, f"{pid}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(status, f"{code}\n".encode())
        os._exit(0)
    return None


def become(command: list[str], env: dict[str, str], cwd: str) -> None:
    """Run a program as the interpreter would that has just begun."""
    import jax

    for name, value in env.items():  # JAX has read its own when it was imported
        if name.startswith("JAX_") and os.environ.get(name) != value:
            number = isinstance(getattr(jax.config, name.lower()), float)
            jax.config.update(name.lower(), float(value) if number else value)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # Those of the server are for files, which can be sought.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    folders = [folder for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    rest = [folder for folder in sys.path[1:] if folder not in folders]
    first, *arguments = command
    if first == "-m":
        sys.path[:] = [cwd, *folders, *rest]
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[:] = ["", *folders, *rest]
        sys.argv = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), vars(main))
    else:
        sys.path[:] = [os.path.dirname(first), *folders, *rest]
        sys.argv = command
        runpy.run_path(first, run_name="__main__")


def load() -> None:
    """Import what the programs import. Nothing of it may compute, because JAX's threads do not survive a fork."""
    import absl.app
    import flax.linen
    import matplotlib.pyplot
    import optax
    import orbax.checkpoint
    import scipy.stats
    import sklearn.datasets

    from ntkgen import cli, curvature, data, ensemble, kernels, measure, ntk, plotting, pruning, records, stats, studies

    _ = (absl.app, flax.linen, matplotlib.pyplot, optax, orbax.checkpoint, scipy.stats, sklearn.datasets)
    _ = (cli, curvature, data, ensemble, kernels, measure, ntk, plotting, pruning, records, stats)
    _ = [getattr(studies, name) for name in studies.NAMES]


if __name__ == "__main__":
    sys.path[:1] = [str(HERE.parents[2])]
    load()
    if request := forked(socket.socket(fileno=int(sys.argv[1]))):
        become(*request)
