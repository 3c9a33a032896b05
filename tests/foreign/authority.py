"""Certificates of every kind under the Chia CA, whose key is public: good ones as installations have them, odd and hostile ones.

    authority.py CHIA_CRT CHIA_KEY CHIA_OLD_CRT FOLDER

Writes NAME.pem (leaf first, then what the client sends along), NAME.chain (the latter alone, if any) and NAME.key for each into
FOLDER.
"""

import datetime
import secrets
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
EXPONENT = 65537


def p256():
    return ec.generate_private_key(ec.SECP256R1())


def is_prime(number):
    if any(number % small == 0 for small in (3, 5, 7, 11, 13, 17, 19, 23, 29, 31)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(20):
        power = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def prime(bits):
    while True:
        number = secrets.randbits(bits) | 3 << bits - 2 | 1
        if number % EXPONENT != 1 and is_prime(number):
            return number


def huge_rsa(bits):
    """An RSA key of about any size at once: both of its factors are products of small primes, which signatures do not mind."""
    factors, orders = [1, 1], [1, 1]
    for side in (0, 1):
        for _ in range(bits // 512):
            one = prime(256)
            factors[side], orders[side] = factors[side] * one, orders[side] * (one - 1)
    (p, q), (of_p, of_q) = factors, orders
    public = rsa.RSAPublicNumbers(EXPONENT, p * q)
    exponents = [pow(EXPONENT, -1, order) for order in (of_p * of_q, of_p, of_q)]
    numbers = rsa.RSAPrivateNumbers(p, q, *exponents, pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def name(common):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def sign(key, issuer, signer, subject="Chia", begin=NOW - DAY, end=NOW + 300 * DAY, ca=None, extensions=(), digest=None):
    """A certificate for a key. `ca`: None for no basic constraints, else whether it claims to be a CA."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    plain = isinstance(signer, ed25519.Ed25519PrivateKey)
    return builder.sign(signer, None if plain else digest or hashes.SHA256())


class Authority:
    def __init__(self, certificate, key, old, folder):
        self.certificate = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
        self.old = x509.load_pem_x509_certificate(Path(old).read_bytes())
        self.key = serialization.load_pem_private_key(Path(key).read_bytes(), None)
        self.folder = Path(folder)

    def write(self, name, key, *chain):
        pem = serialization.Encoding.PEM
        form = serialization.PrivateFormat.PKCS8
        texts = [one.public_bytes(pem) for one in chain]
        (self.folder / f"{name}.pem").write_bytes(b"".join(texts))
        if texts[1:]:
            (self.folder / f"{name}.chain").write_bytes(b"".join(texts[1:]))
        (self.folder / f"{name}.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))

    def leaf(self, name, key=None, *, along=(), **shape):
        """A leaf directly under the CA."""
        key = key or p256()
        self.write(name, key, sign(key, self.certificate.subject, self.key, **shape), *along)

    def below(self, name, depth, key=p256, ca=True, along=()):
        """A leaf at the end of `depth` intermediates."""
        issuer, signer, chain = self.certificate.subject, self.key, []
        for step in range(depth):
            own = key()
            chain.insert(0, sign(own, issuer, signer, subject=f"Step {step}", ca=ca))
            issuer, signer = chain[0].subject, own
        own = p256()
        self.write(name, own, sign(own, issuer, signer), *chain, *along)

    def good(self):
        self.leaf("companion")
        self.leaf("node", rsa.generate_private_key(EXPONENT, 2048))
        self.leaf("p256")
        self.leaf("p384", ec.generate_private_key(ec.SECP384R1()))
        self.leaf("ed25519", ed25519.Ed25519PrivateKey.generate())
        self.leaf("rsa2048", rsa.generate_private_key(EXPONENT, 2048), along=[self.certificate])
        self.leaf("rsa4096", rsa.generate_private_key(EXPONENT, 4096), along=[self.certificate])
        self.leaf("old-ca", along=[self.old])
        self.leaf("sha512", digest=hashes.SHA512())
        self.leaf("client-only", extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)])
        self.leaf("leaf-constraints", ca=False)
        self.below("intermediate", 1, along=[self.certificate])
        unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x04\x02hi")
        self.leaf("unknown-extension", extensions=[(unknown, False)])

    def odd(self):
        self.leaf("p521", ec.generate_private_key(ec.SECP521R1()))
        self.leaf("k256", ec.generate_private_key(ec.SECP256K1()))
        self.leaf("rsa1024", huge_rsa(1024))
        self.leaf("rsa8192", huge_rsa(8192))
        self.leaf("rsa16384", huge_rsa(16384))
        self.leaf("expired", begin=NOW - 30 * DAY, end=NOW - DAY)
        self.leaf("not-yet-valid", begin=NOW + DAY, end=NOW + 30 * DAY)
        self.leaf("server-only", extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)])
        flags = dict.fromkeys(
            "content_commitment data_encipherment key_agreement key_cert_sign crl_sign encipher_only decipher_only "
            "digital_signature".split(),
            False,
        )
        self.leaf("no-signatures", extensions=[(x509.KeyUsage(key_encipherment=True, **flags), True)])
        blob = lambda size: x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.2"), bytes(size))
        self.leaf("critical-extension", extensions=[(blob(4), True)])
        self.leaf("giant", extensions=[(blob(9_000), False)])
        self.leaf("colossal", extensions=[(blob(60_000), False)])
        self.below("under-a-leaf", 1, ca=False)
        self.below("deep", 4)
        self.below("abyss", 30)
        own = p256()
        self.write("self-signed", own, sign(own, name("Chia"), own))
        self.leaf("crowd", along=[self.certificate] * 12)
        stranger = p256()
        root = sign(stranger, self.certificate.subject, stranger, ca=True)
        leaf = sign(own, self.certificate.subject, stranger)
        self.write("wrong-ca", own, leaf, root)


def main():
    authority = Authority(*sys.argv[1:])
    authority.good()
    authority.odd()


if __name__ == "__main__":
    main()
