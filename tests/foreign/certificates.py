"""Certificates of all kinds, shown by OpenSSL's own client."""

import re
import subprocess
from pathlib import Path

from registry import CASES, Case, until_end
from wire import converse


class Client:
    """`openssl s_client` as a stream."""

    def __init__(self, place, certificate, *more):
        pem, key = place.pem(certificate)
        host, port = place.to
        command = [place.tools["openssl"], "s_client", "-connect", f"{host}:{port}", "-bind", place.source, "-quiet"]
        command += ["-cipher", "DEFAULT@SECLEVEL=0", "-cert", pem, "-key", key, *more]
        along = Path(pem).with_suffix(".chain")
        command += ["-cert_chain", str(along)] if along.exists() else []
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)

    def sendall(self, data):
        self.process.stdin.write(data)

    def recv(self, count):
        return self.process.stdout.read(count)

    def end(self):
        """Ends it; what it said about the connection."""
        self.process.kill()
        return self.process.communicate()[1].decode(errors="replace")


# What a node takes from a client, and what this appliance takes too.
TAKEN = {
    "p256": "as the appliance makes them for nodes",
    "p384": "a larger curve",
    "p521": "the largest",
    "ed25519": "Edwards curve",
    "rsa2048": "as installations make them, with the CA along",
    "rsa4096": "the largest that is verified",
    "old-ca": "with the CA of 2021 along",
    "sha512": "signed over another hash",
    "client-only": "an extended key usage",
    "leaf-constraints": "says that it is no CA",
    "intermediate": "under an intermediate, with the CA along",
    "unknown-extension": "nothing that is critical",
}
# What is refused: name, reasons, and the alert. Those marked are limits of ours: a node's OpenSSL takes them.
EXPIRED = ("tls_expired",), "certificate expired"
BAD = ("tls_bad_certificate",), "certificate unknown"
UNTRUSTED = ("tls_untrusted",), "unknown ca"
REFUSED = {
    "expired": EXPIRED,
    "not-yet-valid": EXPIRED,
    "self-signed": UNTRUSTED,
    "wrong-ca": UNTRUSTED,
    "under-a-leaf": UNTRUSTED,
    "server-only": (("tls_untrusted",), "unsupported certificate"),
    "no-signatures": (("tls_untrusted",), "certificate unknown"),
    "critical-extension": BAD,
    "rsa1024": BAD,
    "rsa8192": BAD,  # ours
    "rsa16384": BAD,  # ours
    "k256": (("tls_no_certificate",), "certificate required"),  # no signature of TLS 1.3 fits it, so OpenSSL shows nothing
    "deep": BAD,  # ours
    "crowd": BAD,  # ours
    "giant": BAD,  # ours
    "abyss": (("tls_bad_certificate", "tls_too_large"), None),  # ours
    "colossal": (("tls_bad_certificate", "tls_too_large"), None),  # ours
}


def taken(certificate):
    def run(place):
        client = Client(place, certificate)
        try:
            converse(client)
        finally:
            client.end()

    return run


def shown(certificate):
    """What a client with this certificate hears: the alert's name as OpenSSL has it."""

    def run(place):
        client = Client(place, certificate)
        until_end(client)
        said = client.end()
        found = re.search(r"alert ([a-z ]+)", said)
        return found.group(1).strip() if found else said.strip()[-200:]

    return run


for name in TAKEN:
    CASES[f"certificate-{name}"] = Case(taken(name))
for name, (reasons, alert) in REFUSED.items():
    CASES[f"certificate-{name}"] = Case(shown(name), reasons, alert)


def missing(tools):
    return {} if tools.get("openssl") else {"certificate-": "no `openssl` here (Debian: openssl)"}
