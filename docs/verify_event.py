"""Say whether an event is in a sealed log: python docs/verify_event.py [--public-key KEY] [PROOF]. See audit.md."""

import argparse
import base64
import hashlib
import json
import sys
import uuid
import zlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def need(fact: object, otherwise: str) -> None:
    if not fact:
        raise ValueError(otherwise)


def climb(data: bytes, index: int, size: int, path: list[str]) -> bytes:  # as in RFC 6962
    here, last = hashlib.sha256(b"\0" + data).digest(), size - 1
    need(type(index) is type(size) is int and 0 <= index < size, "there is no such leaf")
    for other in map(bytes.fromhex, path):
        need(last, "a path is too long")
        left = index % 2 or index == last
        here = hashlib.sha256(b"\1" + (other + here if left else here + other)).digest()
        while left and index and not index % 2:  # the levels where it stands alone
            index, last = index // 2, last // 2
        index, last = index // 2, last // 2
    need(not last, "a path is too short")
    return here


def check(proof: dict, trusted: str | None) -> str:
    event, seal, slice_, size = proof["event"], proof["seal"], proof["slice"], proof["size"]
    names = ("tenant", "thread_id", "version", "type", "schema", "recorded_at", "metadata", "payload")
    text = "\n".join(str(event[name]) for name in names)
    digest = hashlib.sha256(bytes.fromhex(proof["previous"]) + text.encode()).digest()
    need(digest.hex() == proof["hash"] and len(event) == 8 == text.count("\n") + 1, "the fields do not give the hash")
    need(zlib.crc32(uuid.UUID(event["thread_id"]).bytes) % 1024 == slice_, "this is not the thread's slice")
    root = climb(digest, proof["position"] - 1, size, proof["path"])
    root = climb(slice_.to_bytes(2, "big") + size.to_bytes(8, "big") + root, slice_, 1024, proof["slice_path"])
    need(root.hex() == seal["root"], "the event does not lead to the sealed root")
    key, signature = (base64.b64decode(seal[name], validate=True) for name in ("public_key", "signature"))
    need(seal["key_id"] == hashlib.sha256(key).hexdigest()[:32] and trusted in {None, seal["public_key"]}, "wrong key")
    signed = ("threadfold seal 1", *(str(seal[name]) for name in ("number", "at", "root", "previous", "key_id")))
    Ed25519PublicKey.from_public_bytes(key).verify(signature, "\n".join(signed).encode())
    return f"Proved, as sealed {seal['at']} with {seal['public_key']}:\n{text}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("proof", nargs="?", type=open, default=sys.stdin)
    parser.add_argument("--public-key")
    given = parser.parse_args()
    try:
        twice = "a member is there twice"  # and another reader would take the other one
        once = lambda pairs: need(len(dict(pairs)) == len(pairs), twice) or dict(pairs)
        print(check(json.load(given.proof, object_pairs_hook=once), given.public_key))
    except Exception as wrong:  # noqa: BLE001  (whatever a document holds, it proves nothing then)
        sys.exit(f"Not proved: {wrong!r}")
