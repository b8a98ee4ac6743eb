"""The admission process, running for real on this machine, with certificates made for it."""

import contextlib
import datetime as dt
import http.client
import ipaddress
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PREFIX = "METRICS_SIDECAR_INJECTOR_"


def make_pair(days=30.0):
    """Return a certificate for this machine that signs itself, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metrics-sidecar-webhook")])
    now = dt.datetime.now(dt.UTC)
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def expiry_of(certificate):
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc.timestamp()


def write_pair(folder, certificate, key):
    """Replace both files at once, as the kubelet does with a mounted Secret: by exchanging a link."""
    version = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    (version / "tls.crt").write_bytes(certificate)
    (version / "tls.key").write_bytes(key)
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.replace(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        with contextlib.suppress(FileExistsError):
            (folder / name).symlink_to(Path("..data") / name)


def eventually(what, condition, deadline=30.0):
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + deadline
    while True:
        if result := condition():
            return result
        assert time.monotonic() < end, f"waited {deadline} s for {what}"
        time.sleep(0.02)


def trusting():
    """What a client needs that takes any certificate: they change under it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Running:
    """`python -m webhook serve`, from start to end; `with Running() as it:` waits until it listens."""

    def __init__(self, folder=None, *, program=("-m", "webhook", "serve"), pair=None, **settings):
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(folder or self._temporary.name)
        if pair is not False:
            write_pair(self.folder, *(pair or make_pair()))
        environment = {
            "SERVE_ADDRESS": "127.0.0.1",
            "SERVE_PORT": 0,
            "SERVE_PROBE_PORT": 0,
            "SERVE_CERTIFICATE": self.folder / "tls.crt",
            "SERVE_KEY": self.folder / "tls.key",
            "SERVE_DRAIN_SECONDS": 0,
        } | settings
        # No HOME and no service account: whatever would look for a cluster finds none.
        kept = {
            key: value
            for key, value in os.environ.items()
            if key in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_START")
        }
        self.process = subprocess.Popen(
            [sys.executable, *program],
            env=kept | {PREFIX + key: str(value) for key, value in environment.items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)

    def lines(self):
        """The log so far, each line parsed: all of it is JSON."""
        return [json.loads(line) for line in list(self.log)]

    def __enter__(self):
        try:
            listening = eventually("the process to listen", self._listening)
        except BaseException:
            self.__exit__()
            raise
        self.port, self.probe_port = listening["port"], listening["probe_port"]
        return self

    def _listening(self):
        assert self.process.poll() is None, "".join(self.log)
        return next((line for line in self.lines() if line["message"] == "server: listening"), None)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(10)
        self.process.stderr.close()
        self._temporary.cleanup()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def session(self, **options):
        """An asynchronous client."""
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting(), **options))

    def post(self, path, body):
        """Send bytes, or JSON; return the status and the body."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send("POST", http.client.HTTPSConnection, self.port, path, content, context=trusting())

    def get(self, path, *, tls=False):
        """Return the status and the text of a page, of the probes' port or of the webhooks'."""
        if tls:
            status, body = self._send("GET", http.client.HTTPSConnection, self.port, path, context=trusting())
        else:
            status, body = self._send("GET", http.client.HTTPConnection, self.probe_port, path)
        return status, body.decode()

    def _send(self, method, kind, port, path, body=None, **options):
        connection = kind("127.0.0.1", port, timeout=20, **options)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()

    def metric(self, name, **labels):
        """The value of one sample of /metrics, None if there is no such."""
        wanted = name + (
            "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
        )
        for line in self.get("/metrics")[1].splitlines():
            if line.rpartition(" ")[0] == wanted:
                return float(line.rpartition(" ")[2])
        return None

    def rss(self):
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def cpu(self):
        """Seconds of processor time so far, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def review(obj, *, uid="0d3f", operation="CREATE", namespace="shop", old=None, **request):
    """An AdmissionReview as the API server sends it."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "",
            "namespace": namespace,
            "operation": operation,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "groups": ["a"],
            },
            "object": obj,
            "oldObject": old,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **request,
        },
    }
