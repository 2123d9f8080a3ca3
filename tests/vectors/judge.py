"""Judges tests/vectors/vectors.json without a line of Tidegate's code: PASETO v4.public from its specification
over pyca/cryptography's Ed25519, X.509 by pyca/cryptography, CBOR by cbor2."""

import base64
import hashlib
import json
import pathlib
import struct
import sys

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

passed = failed = 0


def check(name, condition):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print(f"{name}: does not hold")


def b64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pae(*pieces):
    out = struct.pack("<Q", len(pieces))
    for piece in pieces:
        out += struct.pack("<Q", len(piece)) + piece
    return out


def verifies(key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        return True
    except InvalidSignature:
        return False


def paseto(token, key, assertion):
    header, rest = "v4.public.", token[len("v4.public."):]
    assert token.startswith(header)
    body, _, footer = rest.partition(".")
    body, footer = b64(body), b64(footer)
    message, signature = body[:-64], body[-64:]
    good = verifies(key, signature, pae(header.encode(), message, footer, assertion))
    return good, message, footer.decode()


def key_id(public):
    return base64.urlsafe_b64encode(hashlib.sha256(b"tidegate/key-id/1" + public).digest()[:16]).rstrip(b"=").decode()


golden = json.loads((pathlib.Path(__file__).parent / "vectors.json").read_text())

for document in golden["documents"]:
    kind, key = document["kind"], b64(document["public_key"])
    good, message, footer = paseto(document["token"], key, document["assertion"].encode())
    check(f"{kind}: signature", good)
    check(f"{kind}: claims", json.loads(message) == document["claims"])
    check(f"{kind}: key id", footer == document["kid"] == key_id(key))
    bad, _, _ = paseto(document["token"], key, b"tidegate/other/1/x")
    check(f"{kind}: another domain is refused", not bad)

chain = dict(line.split(" ", 1) for line in golden["chain"]["text"].splitlines())
rotation_body = b64(chain["rotation"].split(".")[2])
rotation = json.loads(rotation_body[:-64])
root = b64(rotation["root"])
digest = base64.urlsafe_b64encode(hashlib.sha256(b"tidegate/root/1" + root).digest()).rstrip(b"=").decode()
check("chain: root hash", digest == golden["chain"]["root_hash"])
check("chain: the root signs the rotation key", paseto(chain["rotation"], root, b"tidegate/rotation/1")[0])
good, message, _ = paseto(chain["bundle"], b64(rotation["rotation"]), b"tidegate/bundle/1")
check("chain: the rotation key signs the bundle", good)
keys = json.loads(message)["keys"]
check("chain: one role a key", len({key["public"] for key in keys}) == len(keys) == golden["chain"]["bundle_keys"])

for vector in golden["certificates"]:
    role = vector["role"]
    certificate = x509.load_der_x509_certificate(b64(vector["der"]))
    check(f"{role}: signature", verifies(b64(vector["issuer_key"]), certificate.signature, certificate.tbs_certificate_bytes))
    names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    check(f"{role}: exactly one name", [type(n) for n in names] == [x509.UniformResourceIdentifier] and names[0].value == vector["uri"])
    usages = [usage.dotted_string for usage in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value]
    check(f"{role}: usage", usages == ["1.3.6.1.5.5.7.3.2" if vector["client_auth"] else "1.3.6.1.5.5.7.3.1"])
    check(f"{role}: key", certificate.public_key().public_bytes_raw() == b64(vector["subject_key"]))
    serial = certificate.serial_number.to_bytes(17, "big")
    check(f"{role}: generation", serial[0] == 1 and int.from_bytes(serial[1:9], "big") == vector["generation"])
    check(f"{role}: issuer", certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == key_id(b64(vector["issuer_key"])))

proof = golden["open_signature"]
signed = b"tidegate/open/1" + b64(proof["connector"]) + b64(proof["client_key"]) + b64(proof["initiation_sha256"])
check("open: signature", verifies(b64(proof["public_key"]), b64(proof["signature"]), signed))

for message in golden["messages"]:
    decoded = cbor2.loads(b64(message["body"]))
    expected = {int(k): b64(v) if isinstance(v, str) else v for k, v in message["fields"].items()}
    check(f"{message['name']}: fields", decoded == expected)

print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
