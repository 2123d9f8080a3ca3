"""Judges tests/vectors/vectors.json without a line of Tidegate's code: PASETO v4.public from its specification
over pyca/cryptography's Ed25519, HPKE from RFC 9180 over its X25519 and ChaCha20-Poly1305, X.509 by
pyca/cryptography, CBOR by cbor2."""

import base64
import hashlib
import hmac
import json
import pathlib
import struct
import sys

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

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


def hpke_open(private, info, associated, sealed):
    """RFC 9180 in base mode: DHKEM(X25519, HKDF-SHA256) 0x20, HKDF-SHA256 1, ChaCha20-Poly1305 3. None: it does not open."""
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    kem, suite = b"KEM" + struct.pack(">H", 0x20), b"HPKE" + struct.pack(">HHH", 0x20, 1, 3)

    def extract(of, salt, label, material):
        return hmac.digest(salt, b"HPKE-v1" + of + label + material, "sha256")

    def expand(of, secret, label, context, length):
        context = struct.pack(">H", length) + b"HPKE-v1" + of + label + context
        return HKDFExpand(SHA256(), length, context).derive(secret)

    key = X25519PrivateKey.from_private_bytes(private)
    agreed = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    # Section 4.1, then section 5.1.
    parties = encapsulated + key.public_key().public_bytes_raw()
    shared = expand(kem, extract(kem, b"", b"eae_prk", agreed), b"shared_secret", parties, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    cipher = ChaCha20Poly1305(expand(suite, secret, b"key", context, 32))
    try:
        return cipher.decrypt(expand(suite, secret, b"base_nonce", context, 12), ciphertext, associated)
    except InvalidTag:
        return None


def one_encoding(encoded):
    """The CBOR value, when it is the only way to write it (RFC 8949 section 4.2.1) and nothing stands behind it."""
    value = cbor2.loads(encoded)
    return value if cbor2.dumps(value, canonical=True) == encoded else None


def fields(described):
    """A description of a message as what CBOR says: texts are bytes in base64url, names are numbers."""
    if isinstance(described, dict):
        return {int(number): fields(value) for number, value in described.items()}
    if isinstance(described, list):
        return [fields(value) for value in described]
    return b64(described) if isinstance(described, str) else described


def same(one, other):
    """Equality in which 1 is not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


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

sealed = golden["sealed"]
private, public = b64(sealed["private_key"]), b64(sealed["public_key"])
introduction = sealed["introduction"]
connector = b64(introduction["connector"])
inside = hpke_open(private, b"tidegate/open-seal/1", connector, b64(introduction["sealed"]))
check("introduction: opens", inside == b64(introduction["inside"]))
check("introduction: at no other connector", hpke_open(private, b"tidegate/open-seal/1", b"", b64(introduction["sealed"])) is None)

request = sealed["request"]
frame = b64(request["sealed"])
to = hashlib.sha256(b"tidegate/key-id/1" + public).digest()[:16]
check("request: names the key it is sealed to", frame[:16] == to)
inside = hpke_open(private, b"tidegate/control-request/1", b"", frame[16:])
check("request: opens", inside is not None)
said = one_encoding(inside) or {}
check("request: fields", sorted(said) == [0, 1, 2, 3, 4, 5])
check("request: certificate", said[0] == b64(request["certificate"]))
check("request: reply key and nonce", len(said[1]) == 32 and len(said[2]) == 16)
check("request: message", said[3] == request["type"] and said[4] == b64(request["body"]))
signed = b"tidegate/control-sign/1" + to + said[1] + said[2] + struct.pack(">H", said[3])
signed += hashlib.sha256(said[0]).digest() + hashlib.sha256(said[4]).digest()
identity = x509.load_der_x509_certificate(said[0]).public_key().public_bytes_raw()
check("request: certificate's key", identity == b64(request["identity_key"]))
check("request: signature", verifies(identity, said[5], signed))

joins = golden["join_keys"]
kinds = {"pop": 0, "connector": 1, "device": 2}
for key in joins["keys"]:
    check(f"join key of a {key['kind']}: beginning", key["text"].startswith("tg1."))
    content = b64(key["text"].removeprefix("tg1."))
    content, total = content[:-4], content[-4:]
    check(f"join key of a {key['kind']}: check sum", hashlib.sha256(b"tidegate/join-key/1" + content).digest()[:4] == total)
    expected = {0: kinds[key["kind"]], 1: joins["controller"], 2: b64(joins["root"]), 3: b64(joins["secret"])}
    check(f"join key of a {key['kind']}: content", same(one_encoding(content), expected))

relay = golden["relay"]
for place, kind in enumerate(relay["kinds"]):
    expected = struct.pack(">B3xQ", 0x80 + place, relay["channel"])
    check(f"relay frame {place}: header", kind["first"] == 0x80 + place and b64(kind["header"]) == expected)
check("relay frames: four kinds", len(relay["kinds"]) == 4)

for message in golden["messages"]:
    frame = b64(message["frame"])
    length, number = struct.unpack(">IH", frame[:6])
    check(f"{message['name']}: frame", length == len(frame) - 4 and number == message["type"])
    check(f"{message['name']}: fields", same(one_encoding(frame[6:]), fields(message["fields"])))
numbers = [message["type"] for message in golden["messages"]]
check("messages: each number once", len(set(numbers)) == len(numbers) and numbers == sorted(numbers))

print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed else 0)
