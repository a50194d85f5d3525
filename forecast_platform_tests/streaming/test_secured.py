"""A broker that asks for TLS and a password: what the settings say reaches it, and no line shows the password.

librdkafka's mock cluster has neither, so a listener here speaks as much as a broker does until it knows who asks.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forecast_platform.cli import main
from forecast_platform.settings import get_settings

PASSWORD = "hunter2-of-kafka"
_HANDSHAKE, _VERSIONS, _UNSUPPORTED = 17, 18, 35  # of Kafka's protocol


def certificate(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that is signed by itself, with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    now, here = dt.datetime.now(dt.UTC), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([here]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    path, pem = folder / "broker.pem", serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    return path


class Listener:
    """Takes connections by TLS, offers PLAIN, and keeps what it is told then."""

    def __init__(self, pem: Path) -> None:
        self.told: list[bytes] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        self._socket = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                connection, _ = self._socket.accept()
                with connection:
                    while not self._answered(connection):
                        pass
                    self.told.append(self._next(connection))
            except (OSError, struct.error):  # who does not trust us hangs up
                continue

    def _answered(self, connection: ssl.SSLSocket) -> bool:
        """Answer a request; whether the next is the password."""
        what, version, number = struct.unpack(">hhi", self._next(connection)[:8])
        if what == _HANDSHAKE:
            body = struct.pack(">hih5s", 0, 1, 5, b"PLAIN")
        else:  # which requests in which versions are known
            known = [(_VERSIONS, 0, 0), (_HANDSHAKE, 0, 0)]
            body = struct.pack(">hi", _UNSUPPORTED if version else 0, len(known))
            body += b"".join(struct.pack(">hhh", *each) for each in known)
        connection.sendall(struct.pack(">ii", 4 + len(body), number) + body)
        return bool(what == _HANDSHAKE)

    @staticmethod
    def _next(connection: ssl.SSLSocket) -> bytes:
        (size,) = struct.unpack(">i", connection.recv(4))
        return connection.recv(size)


@pytest.mark.parametrize("trusted", [True, False])
def test_the_broker_is_reached_by_tls_with_the_password(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = certificate(tmp_path)
    listener = Listener(pem)
    conf = {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "forecast", "log_level": "0",
    }  # fmt: skip
    conf |= {"ssl.ca.location": str(pem)} if trusted else {}
    for name, value in {
        "HOME": str(tmp_path / "home"), "KAFKA_SERVERS": listener.address, "KAFKA_TOPIC": "tills",
        "KAFKA_CONF": json.dumps(conf), "KAFKA_PASSWORD": PASSWORD,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"FORECAST_{name}", value)
    monkeypatch.setattr("forecast_platform.streaming.kafka.PATIENCE", 2.0)
    get_settings.cache_clear()
    result = CliRunner().invoke(main, ["stream", "--once", "--first-week", "2025-10-10"])
    listener.close()
    assert result.exit_code == 1
    assert "the brokers do not answer" in result.output
    assert PASSWORD not in result.output
    if trusted:
        assert listener.told[0] == f"\0forecast\0{PASSWORD}".encode()
    else:
        assert not listener.told
        assert "certificate verify failed" in result.output
