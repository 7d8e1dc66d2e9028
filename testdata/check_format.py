#!/usr/bin/env python3
"""Checks testdata/format-1.json, format-2.json (a log that succeeds another), packed-1.json and redaction-1.json against docs/format.md, as a second implementation.

Needs Python's standard library and the package `cryptography`. zstd is checked where Python has it (3.14 and later).
Exits with 0 if every vector holds.
"""
import base64
import datetime
import hashlib
import hmac
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import uuid

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

try:
    from compression import zstd
except ImportError:
    zstd = None

HERE = pathlib.Path(__file__).resolve().parent
checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        raise SystemExit(f"wrong: {what}")


# ------------------------------------------------------------------ §1 conventions

def label(name):
    return b"audit-trail/1 " + name.encode() + b"\0"


def lp(data):
    return struct.pack(">H", len(data)) + data


def sha256(data):
    return hashlib.sha256(data).digest()


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf(key, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=label(info)).derive(key)


def aead_open(key, sealed, ad):
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], ad)


def canonical(value):
    """RFC 8785 for what the vectors hold: strings, integers, and the doubles that Python writes as ECMAScript does."""
    if isinstance(value, dict):
        items = sorted(value.items(), key=lambda kv: kv[0].encode("utf-16-be"))
        return b"{" + b",".join(canonical(k) + b":" + canonical(v) for k, v in items) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(canonical(v) for v in value) + b"]"
    if isinstance(value, float):
        if value == int(value) and abs(value) < 1e21:
            return str(int(value)).encode()
        return repr(value).encode()
    return json.dumps(value, ensure_ascii=False).encode()


# ------------------------------------------------------------------ §3 tree

def node(left, right):
    return sha256(b"\1" + left + right)


def root(leaves):
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node(root(leaves[:k]), root(leaves[k:]))


def root_from_proof(leaf, index, size, proof):
    """RFC 9162 §2.1.3.2."""
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        check(sn != 0, "inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node(p, r)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    check(sn == 0, "inclusion proof is too short")
    return r


# ------------------------------------------------------------------ HPKE, RFC 9180, base mode

def hpke_open(private, enc, info, ad, ciphertext):
    kem, suite = b"KEM" + b"\0\x20", b"HPKE" + b"\0\x20" + b"\0\x01" + b"\0\x02"

    def extract(salt, tag, ikm, sid):
        return mac(salt or bytes(32), b"HPKE-v1" + sid + tag + ikm)

    def expand(prk, tag, info, length, sid):
        data, out, block, i = struct.pack(">H", length) + b"HPKE-v1" + sid + tag + info, b"", b"", 1
        while len(out) < length:
            block = mac(prk, block + data + bytes([i]))
            out, i = out + block, i + 1
        return out[:length]

    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    dh = private.exchange(X25519PublicKey.from_public_bytes(enc))
    shared = expand(extract(b"", b"eae_prk", dh, kem), b"shared_secret", enc + public, 32, kem)
    context = b"\0" + extract(b"", b"psk_id_hash", b"", suite) + extract(b"", b"info_hash", info, suite)
    secret = extract(shared, b"secret", b"", suite)
    key = expand(secret, b"key", context, 32, suite)
    nonce = expand(secret, b"base_nonce", context, 12, suite)
    return AESGCM(key).decrypt(nonce, ciphertext, ad)


# ------------------------------------------------------------------ §4 content

def fields_of(content, payloads):
    out = {}
    for member, value in content.items():
        if member in ("attributes", "refs"):
            for name, inner in value.items():
                out[f"{member}/{name}"] = canonical(inner)
        else:
            out[member] = canonical(value)
    for name, data in payloads:
        out[f"payloads/{name}"] = data
    return out


def commitment(secret, name, value):
    salt = mac(secret, label("salt") + name.encode())
    return sha256(label("field") + salt + lp(name.encode()) + value)


def unpack(packed, plain, what):
    codec, body = packed[0], packed[1:]
    if codec == 0:
        check(body == plain, f"{what}: stored bytes")
    elif zstd is not None:
        dictionary = None
        if codec == 2:
            raw = (HERE.parent / "audit-core/src/dictionary-1.txt").read_bytes()
            dictionary = zstd.ZstdDict(raw, is_raw=True)
        else:
            check(codec == 1, f"{what}: codec")
        check(zstd.decompress(body, zstd_dict=dictionary) == plain, f"{what}: decompressed bytes")
    else:
        check(codec in (1, 2), f"{what}: codec")


def check_content(v, out, entry, data_key, origin):
    event = uuid.UUID(entry["event"]).bytes
    stored = bytes.fromhex(out["parts"])
    payloads = [(p["name"], bytes.fromhex(p["hex"]) * p["times"]) for p in out["payloads"]]

    def take(part, name):
        nonlocal stored
        sealed, stored = stored[:part["stored"]], stored[part["stored"]:]
        check(sha256(sealed).hex() == part["sha256"], f"{name}: sha256 of the stored part")
        ad = label("part") + lp(origin) + event + lp(name.encode())
        try:
            return aead_open(data_key, sealed, ad)
        except InvalidTag:
            raise SystemExit(f"wrong: {name} doesn't open") from None

    content = canonical(out["content"])
    plain = take(entry["content"], "content")
    secret = plain[:32]
    check(entry["content"]["length"] == len(content), "content.length")
    unpack(plain[32:], content, "content")
    for part, (name, data) in zip(entry.get("payloads", []), payloads, strict=True):
        check(part["name"] == name and part["length"] == len(data), f"payload {name}")
        check(commitment(secret, f"payloads/{name}", data).hex() == part["commitment"], f"commitment of {name}")
        unpack(take(part, f"payloads/{name}"), data, name)
    check(stored == b"", "parts have trailing bytes")

    fields = sorted(fields_of(out["content"], payloads).items(), key=lambda f: f[0].encode())
    leaves = [sha256(b"\0" + commitment(secret, name, value)) for name, value in fields]
    check(entry["content"]["fields"] == len(leaves), "content.fields")
    check(root(leaves).hex() == entry["content"]["root"], "content.root")
    if "disclosed" in out:
        d = out["disclosed"]
        one = sha256(label("field") + bytes.fromhex(d["salt"]) + lp(d["name"].encode()) + d["value"].encode())
        got = root_from_proof(sha256(b"\0" + one), d["position"], len(leaves), [bytes.fromhex(h) for h in d["proof"]])
        check(got.hex() == entry["content"]["root"], "disclosed field")


def check_tokens(v, out, entry, index_key):
    c = out["content"]
    wanted = [("session", c.get("session_id")), ("actor", c.get("actor", {}).get("id")),
              ("behalf", c.get("on_behalf_of", {}).get("id")), ("subject", c.get("subject"))]
    wanted += [(f"refs/{n}", x) for n, x in c.get("refs", {}).items()]
    tokens = sorted({mac(index_key, label("token") + lp(f.encode()) + x.encode())[:16] for f, x in wanted if x})
    check([t.hex() for t in tokens] == out["tokens"]["tokens"], "tokens")
    salt = bytes.fromhex(out["tokens"]["salt"])
    digest = sha256(label("tokens") + salt + struct.pack(">I", len(tokens)) + b"".join(tokens))
    check(entry["tokens"] == {"count": len(tokens), "hash": digest.hex()}, "hash of the tokens")


# ------------------------------------------------------------------ §3 checkpoints

def check_checkpoint(note, v, leaves):
    text, signature = note.split("\n\n", 1)
    origin, size, b64 = text.split("\n")
    check(origin == v["ring"]["origin"], "origin of the checkpoint")
    check(base64.b64decode(b64) == root(leaves[:int(size)]), f"root hash of checkpoint {size}")
    name, key_hash, key = v["vkey"].split("+", 2)
    check(name == origin, "name of the key")
    key = base64.b64decode(key)
    check(sha256(name.encode() + b"\n" + key)[:4].hex() == key_hash, "key hash")
    line = signature.strip().split(" ")
    check(line[0] == "—" and line[1] == name, "signature line")
    raw = base64.b64decode(line[2])
    check(raw[:4].hex() == key_hash, "key hash of the signature")
    try:
        Ed25519PublicKey.from_public_bytes(key[1:]).verify(raw[4:], (text + "\n").encode())
    except InvalidSignature:
        raise SystemExit("wrong: signature of the checkpoint") from None
    return int(size)


# ------------------------------------------------------------------ §12 packed entries

PHRASES = (HERE.parent / "audit-core/src/phrases-1.txt").read_bytes().split(b"\n")[:-1]
BY_LENGTH = sorted(enumerate(PHRASES), key=lambda phrase: -len(phrase[1]))
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
HEX = re.compile(rb"(?:[0-9a-f]{2}){4,}")
NUMBER = re.compile(rb"0|[1-9][0-9]*")
EPOCH = datetime.datetime(1970, 1, 1)


def varint(n):
    out = b""
    while n > 0x7f:
        out, n = out + bytes([n & 0x7f | 0x80]), n >> 7
    return out + bytes([n])


def micros(text):
    try:
        at = datetime.datetime.strptime(text.decode(), "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return None
    return (at - EPOCH) // datetime.timedelta(microseconds=1) if at >= EPOCH and at.second < 60 else None


def rule(text, at):
    """The packed form of what stands there, and its length; None for a byte of a literal."""
    for n, phrase in BY_LENGTH:
        if text.startswith(phrase, at):
            return bytes([0x80 + n]), len(phrase)
    found = TIME.match(text, at)
    if found and micros(found[0]) is not None:
        return b"\x61" + struct.pack(">Q", micros(found[0])), 27
    found = UUID.match(text, at)
    if found:
        return b"\x62" + uuid.UUID(found[0].decode()).bytes, 36
    found = HEX.match(text, at)
    if found:
        data = bytes.fromhex(found[0].decode())
        return (b"\x64" if len(data) == 32 else b"\x63" + varint(len(data))) + data, len(found[0])
    found = NUMBER.match(text, at)
    if found and (found[0] != b"0" or not text[at + 1:at + 2].isdigit()):
        n = int(found[0])
        return bytes([n]) if n < 32 else b"\x60" + varint(n), len(found[0])
    return None


def pack_entry(text):
    out, literal, at = b"", b"", 0

    def flush():
        return b"".join(bytes([0x1f + len(part)]) + part
                        for part in (literal[i:i + 64] for i in range(0, len(literal), 64)))

    while at < len(text):
        found = rule(text, at)
        if found is None:
            literal, at = literal + text[at:at + 1], at + 1
        else:
            out, literal, at = out + flush() + found[0], b"", at + found[1]
    return out + flush()


def unpack_entry(packed):
    out, at = b"", 0

    def take(n):
        nonlocal at
        check(at + n <= len(packed), "packed entry is cut off")
        at += n
        return packed[at - n:at]

    def number():
        n = shift = 0
        while True:
            byte = take(1)[0]
            n, shift = n | (byte & 0x7f) << shift, shift + 7
            if byte < 0x80:
                return n

    while at < len(packed):
        code = take(1)[0]
        if code < 0x20:
            out += str(code).encode()
        elif code < 0x60:
            out += take(code - 0x1f)
        elif code == 0x60:
            out += str(number()).encode()
        elif code == 0x61:
            time = EPOCH + datetime.timedelta(microseconds=struct.unpack(">Q", take(8))[0])
            out += time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        elif code == 0x62:
            out += str(uuid.UUID(bytes=take(16))).encode()
        elif code in (0x63, 0x64):
            out += take(32 if code == 0x64 else number()).hex().encode()
        else:
            check(code >= 0x80 and code - 0x80 < len(PHRASES), "packed entry has an unknown code")
            out += PHRASES[code - 0x80]
    check(pack_entry(out) == packed, "packed entry is not in its one form")
    return out


def check_packed(entries):
    p = json.loads((HERE / "packed-1.json").read_text())
    check(p["v"] == 1 and sha256(b"".join(x + b"\n" for x in PHRASES)).hex() == p["phrases"], "phrases")
    check(len(p["entries"]) == len(entries), "every entry is packed")
    pairs = list(zip(p["entries"], (entry["entry"].encode() for entry in entries)))
    pairs += [(case["packed"], bytes.fromhex(case["bytes"])) for case in p["cases"]]
    for packed, plain in pairs:
        check(unpack_entry(bytes.fromhex(packed)) == plain, f"packed form of {plain[:40]}")
    for case in p["refused"]:
        try:
            unpack_entry(bytes.fromhex(case))
        except (SystemExit, OverflowError):
            continue
        raise SystemExit(f"wrong: {case} unpacks")
    return len(pairs)


def check_predecessor(entry, out, index):
    """Version 2 (§8): the first entry of a log that succeeds another."""
    predecessor = entry.get("log", {}).get("predecessor")
    check(entry["v"] == (1 if predecessor is None else 2), f"v of entry {index}")
    if predecessor is None:
        return
    check(index == 0 and entry["kind"] == "log.opened", "only the first entry names a predecessor")
    check(predecessor["origin"] != entry["log"]["origin"], "a log is not its own predecessor")
    check(predecessor["lost"] != predecessor["survives"] and predecessor["lost"]["size"] > 0, "something was lost")
    check(out["content"]["actor"]["kind"] == "human", "a person accepts the loss")
    check(out["content"]["attributes"]["audit.rollback.reason"], "the loss has a reason")
    (note,) = [bytes.fromhex(p["hex"]).decode() for p in out["payloads"] if p["name"] == "lost_checkpoint"]
    origin, size, tree = note.split("\n")[:3]
    check(origin == predecessor["origin"] and int(size) == predecessor["lost"]["size"], "the lost checkpoint")
    check(base64.b64decode(tree).hex() == predecessor["lost"]["root"], "the root of the lost checkpoint")


def check_redaction():
    """§13, and the recipe with which a stranger checks an original."""
    v = json.loads((HERE / "redaction-1.json").read_text())
    check(v["v"] == 1, "version")
    key, known = bytes.fromhex(v["index"]), set()
    for p in v["pseudonyms"]:
        got = mac(key, label("pseudonym") + lp(p["tenant"].encode()) + lp(p["what"].encode()) + p["value"].encode())
        check(got[:16].hex() == p["hex"], f"pseudonym of {p['value']}")
        known.add(p["hex"])
    check(len(known) == len(v["pseudonyms"]), "a value has one pseudonym for each tenant")
    for c in v["commitments"]:
        salt = mac(key, label("redaction-salt") + uuid.UUID(c["event"]).bytes + c["field"].encode())
        check(salt.hex() == c["salt"], f"salt of {c['field']}")
        original = bytes.fromhex(c["original"])
        check(sha256(label("redacted") + salt + original).hex() == c["commitment"], f"commitment to {c['field']}")
        with tempfile.NamedTemporaryFile() as file:
            file.write(original)
            file.flush()
            # Without xxd, which not every machine has.
            escaped = "".join(f"\\{byte:03o}" for byte in salt)
            recipe = f"{{ printf 'audit-trail/1 redacted\\0'; printf '{escaped}'; cat '{file.name}'; }} | sha256sum"
            told = subprocess.run(["sh", "-c", recipe], capture_output=True, check=True).stdout.decode()
        check(told.split()[0] == c["commitment"], "the recipe with sha256sum")
    return len(v["pseudonyms"]) + len(v["commitments"])


def main():
    print(f"redaction-1.json: {check_redaction()} vectors hold")
    for name in ("format-1.json", "format-2.json"):
        check_log(name)


def check_log(name):
    v = json.loads((HERE / name).read_text())
    check(v["v"] == 1, "version")
    ring = v["ring"]
    origin = ring["origin"].encode()
    index_key = bytes.fromhex(ring["index"])
    auditor = X25519PrivateKey.from_private_bytes(bytes.fromhex(v["auditor_private"]))
    check(auditor.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex() == ring["auditor"], "auditor key")
    f = v["fingerprint"]
    got = mac(index_key, label("fingerprint") + lp(f["what"].encode()) + bytes.fromhex(f["secret"]))
    check(got.hex() == f["hash"], "fingerprint")

    # §5
    wrapping = {w["generation"]: bytes.fromhex(w["key"]) for w in ring["wrapping"]}
    data_keys, digests = {}, {}
    for k in v["keys"]:
        head = (uuid.UUID(k["id"]).bytes + bytes.fromhex(k["scope"]) + uuid.UUID(k["run"]).bytes
                + struct.pack(">I", k["generation"]))
        wrapped = bytes.fromhex(k["wrapped"])
        data_keys[k["id"]] = aead_open(wrapping[k["generation"]], wrapped, label("data-key") + lp(origin) + head)
        digests[k["id"]] = sha256(label("data-key-record") + head + wrapped).hex()

    runs, leaves, registered, introduced = {}, [], set(), set()
    for index, out in enumerate(v["entries"]):
        raw = out["entry"].encode()
        entry = json.loads(raw)
        check(canonical(entry) == raw, f"entry {index} is canonical")
        leaves.append(sha256(b"\0" + raw))
        check(leaves[-1].hex() == out["leaf_hash"], f"leaf hash {index}")
        run = uuid.UUID(entry["run"]).bytes
        unmaced = {k: x for k, x in entry.items() if k != "mac"}

        # §7, §8
        check_predecessor(entry, out, index)
        log = entry.get("log", {})
        if log.get("keys"):
            registered |= {k["public"] for k in log["keys"] if k["role"] == "writer"}
        if "head" in log:
            check(log["head"] == {"root": root(leaves[:-1]).hex(), "size": index}, f"head in entry {index}")
        if "signature" in log:
            check(log["signer"] in registered, "the signer is registered")
            unsigned = json.loads(canonical(unmaced))
            del unsigned["log"]["signature"]
            try:
                Ed25519PublicKey.from_public_bytes(bytes.fromhex(log["signer"])).verify(
                    bytes.fromhex(log["signature"]), label("log") + canonical(unsigned))
            except InvalidSignature:
                raise SystemExit(f"wrong: signature of entry {index}") from None
        if "opening" in log:
            opening = log["opening"]
            sealed = bytes.fromhex(opening["sealed"])
            k0 = hpke_open(auditor, sealed[:32], label("run-key"), lp(origin) + run, sealed[32:])
            runs[run] = {"key": k0, "epoch": 0, "seq": 0, "mac": bytes(32)}
        state = runs[run]
        check((entry["seq"], entry["epoch"]) == (state["seq"], state["epoch"]), f"place of entry {index} in its run")
        expected = mac(hkdf(state["key"], "mac"), label("mac") + run + struct.pack(">Q", entry["seq"])
                       + state["mac"] + sha256(canonical(unmaced)))
        check(expected.hex() == entry["mac"], f"mac of entry {index}")
        state["mac"], state["seq"] = expected, state["seq"] + 1
        if entry["kind"] == "writer.epoch_closed":
            state["key"], state["epoch"] = hkdf(state["key"], "evolve"), state["epoch"] + 1

        for k in entry.get("keys", []):
            check(digests[k["id"]] == k["digest"], f"digest of data key {k['id']}")
            introduced.add(k["id"])
        if "content" in entry:
            check(entry["key"] in introduced, "the data key is introduced")
            check_content(v, out, entry, data_keys[entry["key"]], origin)
            check_tokens(v, out, entry, index_key)
            c = out["content"]
            scope = (f"subject:{c['subject']}" if "subject" in c else
                     f"session:{c['session_id']}" if "session_id" in c else f"run:{entry['run']}")
            token = mac(index_key, label("token") + lp(b"scope") + scope.encode())[:16]
            check(token.hex() == next(k["scope"] for k in v["keys"] if k["id"] == entry["key"]), "scope of the data key")
    check(introduced == set(data_keys), "every data key is introduced")

    sizes = [check_checkpoint(note, v, leaves) for note in v["checkpoints"]]
    check(max(sizes) == len(leaves), "the last checkpoint covers the log")
    packed = check_packed(v["entries"]) if name == "format-1.json" else 0
    unchecked = "" if zstd else "; zstd not checked: this Python has none"
    print(f"{name}: {len(leaves)} entries, {len(data_keys)} data keys, {len(sizes)} checkpoints, "
          f"{packed} packed entries, {checks} checks hold{unchecked}")


if __name__ == "__main__":
    sys.exit(main())
