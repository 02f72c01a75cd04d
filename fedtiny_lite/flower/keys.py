"""Certificates and keys for a first try of TLS and node authentication; a real federation has its own authority.

    python -m fedtiny_lite.flower.keys secrets --clients 3

`ca.crt` goes to every device, and `clientK` to device K alone; `server.pem` and `server.key` stay with the SuperLink.
The authority's own key is thrown away, so nobody can sign with it later: to add a host, make all anew.
"""

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedtiny_lite.simulation.stopping import exit_status

DAYS = 30
LOCAL = "127.0.0.1"
_PEM = serialization.Encoding.PEM


def make_keys(folder: Path, clients: int, host: str | None = None, first: int = 0) -> Path:
    """Write what is missing of the certificates for a SuperLink at `host` and a key pair for each client.

    `host`: by default that of the certificates which are there, else 127.0.0.1. Files that are there stay as they are,
    so that a device can be added. Secret ones are readable by their owner alone. Raises ValueError if the
    certificates that are there are of another host, or have expired.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "server.key").exists():
        _check_certificate(folder / "server.pem", host)
    else:
        _make_certificates(folder, host or LOCAL)
    for k in range(first, first + clients):
        if not (folder / f"client{k}").exists():
            make_node_key(folder / f"client{k}")
    return folder


def make_node_key(path: Path) -> Path:
    """A SuperNode's private key at `path`, and its public key at `path`.pub, which the SuperLink is told."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    _write_secret(path, key.private_bytes(_PEM, form, serialization.NoEncryption()))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public + b"\n")
    return path


def _make_certificates(folder: Path, host: str) -> None:
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    name = _name("FedTiny-Lite first try")
    of_authority = _certificate(name, name, authority.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    signed = of_authority.add_extension(usage, critical=True).sign(authority, hashes.SHA384())
    hosts = x509.SubjectAlternativeName([_host(host), x509.DNSName("localhost")])
    of_server = _certificate(_name(host), name, server.public_key()).add_extension(hosts, critical=False)
    (folder / "ca.crt").write_bytes(signed.public_bytes(_PEM))
    (folder / "server.pem").write_bytes(of_server.sign(authority, hashes.SHA384()).public_bytes(_PEM))
    form = serialization.PrivateFormat.PKCS8
    _write_secret(folder / "server.key", server.private_bytes(_PEM, form, serialization.NoEncryption()))


def _check_certificate(path: Path, host: str | None) -> None:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    if found.not_valid_after_utc < datetime.now(UTC):
        raise ValueError(f"{path} has expired on {found.not_valid_after_utc:%Y-%m-%d}: give another folder")
    hosts = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if host and _host(host) not in hosts:
        of = ", ".join(str(name.value) for name in hosts)
        raise ValueError(f"{path} is of {of}, not of {host}: give one of these, or another folder")


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=DAYS))
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _write_secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files and name them."""
    parser = argparse.ArgumentParser(prog="python -m fedtiny_lite.flower.keys", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=1, help="how many key pairs to make")
    parser.add_argument("--first", type=int, default=0, help="number of the first client")
    parser.add_argument("--host", help=f"name or address under which devices reach the SuperLink (default: {LOCAL})")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _make(options))


def _make(options: argparse.Namespace) -> int:
    make_keys(options.folder, options.clients, options.host, options.first)
    print(*sorted(options.folder.iterdir()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
