"""A throw-away Kubernetes control plane: the real etcd, kube-apiserver and controller-manager.

The three are one binary, built from their Go modules (`python harness.py build`) and kept
in the user's cache. Each control plane lives in a directory of its own in memory, on free
ports of 127.0.0.1, and nothing of it is left unless a test failed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

_HERE = Path(__file__).parent
_SOURCES = ("go.mod", "go.sum", "main.go", "kcm.go")
_VERSION_PACKAGE = "k8s.io/component-base/version"
_CONTROLLERS = (
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "persistentvolume-expander-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
)
_IN_REVERSE = ("kube-controller-manager", "kube-apiserver", "etcd")


class Unavailable(RuntimeError):
    """There is no control plane to be had here: Go is missing, or the build failed."""


def build() -> Path:
    """The binary, built first unless exactly these sources have been built before.

    Raises:
        Unavailable: Go is missing, or does not build it.
    """
    binary = _cache() / f"{_kubernetes_version()}-{_fingerprint()}"
    if not binary.exists():
        _cache().mkdir(parents=True, exist_ok=True)
        with (_cache() / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once build it once
            if not binary.exists():
                _compile(binary)
    return binary


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truetally-controlplane"


def _fingerprint() -> str:
    return hashlib.sha256(b"".join((_HERE / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]


def _kubernetes_version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v[\d.]+)", (_HERE / "go.mod").read_text())
    assert found, "go.mod names no k8s.io/kubernetes"
    return found[1]


def _compile(binary: Path) -> None:
    if shutil.which("go") is None:
        raise Unavailable("Go (1.24 or newer) is not on PATH; install it to run these tests")
    print("building the test control plane; the first time takes some minutes", file=sys.stderr, flush=True)
    unfinished = binary.with_suffix(".unfinished")
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={_linker_flags()}"]
    done = subprocess.run(
        [*command, "-o", str(unfinished), "."],
        cwd=_HERE,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"go build failed:\n{done.stderr[-4000:]}")
    unfinished.rename(binary)


def _linker_flags() -> str:
    # Without these an apiserver calls itself v0.0.0 and refuses to emulate its own version.
    version = _kubernetes_version()
    major, minor, *_ = version.removeprefix("v").split(".")
    facts = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in facts.items())


class ControlPlane:
    """One cluster without nodes' kubelets: the API and, if wanted, the controllers of volumes."""

    ADMIN = "admin-token"
    NOBODY = "nobody-token"
    _CONTROLLER = "controller-token"

    def __init__(self, *, controllers: bool = False, apiserver_flags: tuple[str, ...] = ()) -> None:
        self._binary = build()
        self._controllers = controllers
        self._flags = apiserver_flags
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # etcd syncs each write
        self.directory = Path(tempfile.mkdtemp(prefix="truetally-controlplane-", dir=memory))
        self._etcd_port, self._peer_port, self.port, self._controller_port = _free_ports(4)
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate = self.directory / "certs" / "apiserver.crt"
        self.kubeconfig = self.directory / "kubeconfig"

    def start(self) -> ControlPlane:
        """Starts everything; returns when the API is ready."""
        try:
            self._write_secrets()
            self._start_etcd()
            self.start_apiserver()
            self.write_kubeconfig(self.kubeconfig, self.ADMIN)
            if self._controllers:
                self._start_controllers()
        except BaseException:
            self.stop(keep_logs=True)
            raise
        return self

    def stop(self, *, keep_logs: bool = False) -> None:
        """Kills everything and removes it; the logs may stay."""
        for name in _IN_REVERSE:
            self._kill(name)
        if not keep_logs:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        shutil.rmtree(self.directory / "etcd", ignore_errors=True)
        print(f"the control plane's logs are kept in {self.directory}", file=sys.stderr)

    def kill_apiserver(self) -> None:
        """SIGKILL, as when its machine loses power."""
        self._kill("kube-apiserver")

    def start_apiserver(self) -> None:
        """Starts it on the same port as ever; returns when it is ready."""
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--cert-dir={self.directory}/certs",
            f"--token-auth-file={self.directory}/tokens.csv",
            "--authorization-mode=Node,RBAC",
            f"--service-account-key-file={self.directory}/sa.key",
            f"--service-account-signing-key-file={self.directory}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",  # pods here have no default account to wait for
            *self._flags,
        )
        self._wait_ready(within=60)

    def compact_etcd(self, revision: int) -> None:
        """Makes etcd forget what was before the revision: whoever continues from there is answered 410."""
        body = json.dumps({"revision": str(revision)}).encode()
        request = urllib.request.Request(f"{self._etcd_url}/v3/kv/compaction", data=body, method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def write_kubeconfig(self, path: Path, token: str) -> Path:
        """A kubeconfig (JSON is YAML) with this token; replaces the file in one step."""
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        text = json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "it",
                "clusters": [{"name": "it", "cluster": cluster}],
                "users": [{"name": "it", "user": {"token": token}}],
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            }
        )
        fresh = path.with_suffix(".fresh")
        fresh.write_text(text)
        fresh.replace(path)
        return path

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._etcd_port}"

    def _write_secrets(self) -> None:
        subprocess.run([self._binary, "sa-key", self.directory / "sa.key"], check=True)
        (self.directory / "tokens.csv").write_text(
            f'{self.ADMIN},admin,admin,"system:masters"\n'
            f"{self._CONTROLLER},system:kube-controller-manager,controllers,\n"
            f"{self.NOBODY},nobody,nobody,\n"
        )

    def _start_etcd(self) -> None:
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._spawn(
            "etcd",
            "--name=it",
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=it={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )

    def _start_controllers(self) -> None:
        kubeconfig = self.write_kubeconfig(self.directory / "controllers.kubeconfig", self._CONTROLLER)
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._controller_port}",
            f"--cert-dir={self.directory}/controller-certs",
            f"--service-account-private-key-file={self.directory}/sa.key",
            "--pvclaimbinder-sync-period=2s",
            f"--controllers={','.join(_CONTROLLERS)}",
        )

    def _spawn(self, name: str, *flags: str) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self._binary, name, *flags],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for pytest, which stops these in order
            )

    def _kill(self, name: str) -> None:
        if process := self._processes.pop(name, None):
            process.kill()
            process.wait()

    def _wait_ready(self, within: float) -> None:
        unverified = ssl._create_unverified_context()  # it makes its certificate as it starts
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.ADMIN}"}
        )
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            self._fail_if_ended()
            try:
                return urllib.request.urlopen(request, context=unverified, timeout=2).close()
            except OSError:  # among them URLError: it does not listen yet, or is not ready (500)
                time.sleep(0.05)
        raise TimeoutError(f"kube-apiserver was not ready within {within:.0f} s; see {self.directory}")

    def _fail_if_ended(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self.directory / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{log[-2000:]}")


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]  # held together: all different
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


if __name__ == "__main__":
    if sys.argv[1:] != ["build"]:
        sys.exit("usage: python harness.py build")
    try:
        print(build())
    except Unavailable as error:
        sys.exit(str(error))
