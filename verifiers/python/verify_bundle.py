#!/usr/bin/env python3
"""Verifies evidence bundles of LLMAuditTrail, offline: a second implementation of docs/evidence-bundle.md.

    python3 verify_bundle.py FILE... [--vkey VKEY|@FILE] [--opened HASH] [--checkpoint KEPT]...

Needs Python 3.9 and the package `cryptography`. Shares no code with audit-verify; the only thing that it leaves out are
MAC chains (the auditor's private key). Holds a bundle in memory. Stops at the first thing that is wrong.
Exit code 0: everything held. 1: the bundle contradicts itself, or what you know. 2: it could not be decided.
One line per file: exit code, file, what was found. With several files the exit code is 1 if one has 1, else 2 if one has 2.
"""
import argparse
import base64
import datetime
import hashlib
import json
import pathlib
import re
import sys
import types

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

README_SHA256 = "45e433a8fef3a37cd0216a3346abe83d4b9fd1f0c9958f52b75d6e28fe67d7bb"  # of README-1.txt
LIMITS_SHA256 = "f161c29714d08a3d6388e57bbd8f0326687370e00c99b7d8ff797a7ce142d529"  # of LIMITS-1.txt
INTEGER_MAX = 2**53 - 1
MIB = 1 << 20


class Contradiction(Exception):
    """Exit code 1."""


class Undecided(Exception):
    """Exit code 2."""


def check(condition, what):
    if not condition:
        raise Contradiction(what)


# ------------------------------------------------------------------ JSON: one encoding per value (format.md §1)

def decode(data, place):
    try:
        value = json.loads(data.decode("utf-8"))
        again = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
    except (ValueError, RecursionError) as e:
        raise Contradiction(f"{place}: no JSON: {e}")
    check(again == data, f"{place}: not canonical JSON")
    return value


def integer(x):
    return type(x) is int and 0 <= x <= INTEGER_MAX


def one(x):
    return integer(x) and x == 1


def matching(pattern):
    return lambda x: isinstance(x, str) and re.fullmatch(pattern, x) is not None


def array(of, low=0, high=INTEGER_MAX):
    return lambda x: isinstance(x, list) and low <= len(x) <= high and all(of(i) for i in x)


def rising(items, key=lambda x: x):
    return all(key(a) < key(b) for a, b in zip(items, items[1:]))


def members(value, place, needed, optional=()):
    """`value` is an object with exactly these members, each of which fits its test."""
    check(isinstance(value, dict), f"{place}: no object")
    tests = dict(needed, **dict(optional))
    check(set(needed) <= set(value) <= set(tests), f"{place}: has the members {sorted(value)}")
    for name, fits in tests.items():
        check(name not in value or fits(value[name]), f"{place}: {name} is malformed")
    return value


def is_object(value, needed, optional=()):
    try:
        return members(value, "", needed, optional) is value
    except Contradiction:
        return False


def time(text):
    if not matching(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")(text) or text < "1970":
        return False
    try:
        return bool(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ"))
    except ValueError:
        return False


def string(low, high):
    return lambda x: isinstance(x, str) and low <= len(x.encode()) <= high


TEXT = string(0, 1 << 30)
HEX = matching("[0-9a-f]{64}")
UUID = matching("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NAME = matching("[a-z0-9_.]{1,64}")
ORIGIN = matching("[!-*,-~]{1,255}")


def unhex(texts):
    return [bytes.fromhex(t) for t in texts]


def unbase64(text, place):
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        data = None
    check(data is not None and base64.b64encode(data).decode() == text, f"{place}: no base64")
    return data


# ------------------------------------------------------------------ trees (RFC 9162 §2.1)

def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(data):
    return sha256(b"\0", data)


def node(left, right):
    return sha256(b"\1", left, right)


def included(leaf, index, size, proof, root, place):
    check(index < size, f"{place}: index {index} is beyond the tree of {size}")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        check(sn != 0, f"{place}: inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node(r, p)
        fn, sn = fn >> 1, sn >> 1
    check(sn == 0 and r == root, f"{place}: inclusion proof gives another root")


def extends(old_size, new_size, old, new, proof, place):
    proof = [old] + proof if old_size & (old_size - 1) == 0 else list(proof)
    check(proof, f"{place}: consistency proof is empty")
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = proof[0]
    for p in proof[1:]:
        check(sn != 0, f"{place}: consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node(p, fr), node(p, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, p)
        fn, sn = fn >> 1, sn >> 1
    check(sn == 0 and fr == old and sr == new, f"{place}: the later log doesn't extend the earlier")


def all_included(leaves, size, proof, root, place):
    """`leaves` is a list of (index, leaf hash); the order of the hashes is that of evidence-bundle.md §5."""
    known, width, proof = dict(leaves), size, iter(proof)
    while width > 1:
        for i in sorted(known):
            if i ^ 1 < width and i ^ 1 not in known:
                known[i ^ 1] = next(proof, None)
                check(known[i ^ 1] is not None, f"{place}: multi-proof is too short")
        known = {i >> 1: node(known[i], known[i + 1]) if i + 1 < width else known[i] for i in known if not i & 1}
        width = (width + 1) // 2
    check(next(proof, None) is None and known[0] == root, f"{place}: multi-proof gives another root")


# ------------------------------------------------------------------ keys and checkpoints (C2SP signed-note, tlog-checkpoint)

def parse_vkey(text, place):
    parts = text.split("+", 2)
    check(len(parts) == 3 and ORIGIN(parts[0]), f"{place}: no verifier key")
    key = unbase64(parts[2], place)
    check(len(key) == 33 and key[0] == 1, f"{place}: no Ed25519 key")
    key_id = sha256(parts[0].encode(), b"\n", key)[:4]
    check(key_id.hex() == parts[1], f"{place}: the key has another id")
    return {"name": parts[0], "id": key_id, "public": key[1:], "text": text}


def signature_holds(public, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        return True
    except (InvalidSignature, ValueError):
        return False


def open_checkpoint(note, key, place):
    """(size, root) if `key` signed it, None if only others did."""
    try:
        text = note.decode("utf-8")
    except ValueError:
        raise Contradiction(f"{place}: not UTF-8")
    check(len(note) <= MIB and not re.search(r"[\0-\x09\x0b-\x1f]", text), f"{place}: control characters or too long")
    body, separator, lines = text.rpartition("\n\n")
    body += "\n"
    check(separator and lines.endswith("\n"), f"{place}: no signed note")
    lines = lines[:-1].split("\n")
    check(len(lines) <= 100, f"{place}: too many signatures")
    ours = []
    for line in lines:
        found = re.fullmatch(r"\u2014 ([^\s+]+) (\S+)", line)
        check(found, f"{place}: malformed signature line")
        data = unbase64(found[2], place)
        check(len(data) > 4, f"{place}: malformed signature")
        if found[1] == key["name"] and data[:4] == key["id"]:
            ours.append(data[4:])
    if not ours:
        return None
    check(all(signature_holds(key["public"], s, body.encode()) for s in ours), f"{place}: wrong signature")
    found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]+)\n", body)
    check(found and found[1] == key["name"], f"{place}: no checkpoint of this log without extension lines")
    root = unbase64(found[3], place)
    check(len(root) == 32, f"{place}: malformed root")
    return int(found[2]), root


# ------------------------------------------------------------------ the entry (format.md §2 and §8)

MEDIA = {"application/json", "application/octet-stream", "application/vnd.amazon.eventstream", "application/x-ndjson",
         "application/x-www-form-urlencoded", "multipart/form-data", "text/event-stream", "text/plain"}
PUBLIC = {"public": HEX, "role": lambda r: r in ("auditor", "publisher", "report", "writer")}
RECORD = {"digest": HEX, "id": UUID}


def public_keys(x):
    return array(lambda k: is_object(k, PUBLIC), 1)(x) and rising(x, lambda k: (k["role"], k["public"]))


def records(x):
    return array(lambda k: is_object(k, RECORD), 1)(x) and rising(x, lambda k: k["id"])


HEAD = {"head": lambda h: is_object(h, {"root": HEX, "size": integer})}
SIGNED = {"signature": matching("[0-9a-f]{128}"), "signer": HEX}
OPENING = {"opening": lambda o: is_object(o, {"build": matching("[ -~]{0,64}"), "sealed": matching("[0-9a-f]{160}")},
                                          {"previous": UUID})}
TREE = {"root": HEX, "size": integer}
PREDECESSOR = {"predecessor": lambda p: is_object(p, {
    "lost": lambda t: is_object(t, TREE), "origin": ORIGIN, "survives": lambda t: is_object(t, TREE)})
    and p["lost"]["size"] > 0 and p["lost"] != p["survives"]}
LOG = {
    "log.opened": {**HEAD, **SIGNED, **OPENING, "keys": public_keys, "origin": ORIGIN},
    "writer.opened": {**HEAD, **SIGNED, **OPENING},
    "writer.epoch_closed": {**HEAD, "entries": integer},
    "writer.heartbeat": HEAD,
    "writer.closed": {**HEAD, "entries": integer},
    "key.registered": {**SIGNED, "keys": public_keys},
    "key.destroyed": {**SIGNED, "keys": lambda x: array(UUID, 1)(x) and rising(x)},
    "key.rewrapped": {**SIGNED, "generation": integer, "keys": records},
}


def decode_entry(text, place):
    data = text.encode()
    check(len(data) <= 65535, f"{place}: entry is too long")
    entry = members(decode(data, place), place, {
        "epoch": integer, "event": UUID, "kind": NAME, "mac": HEX, "recorded": time, "run": UUID, "seq": integer,
        "time": time, "v": lambda n: n in (1, 2) and integer(n),
    }, {
        "content": lambda c: is_object(c, {"fields": lambda n: integer(n) and 1 <= n <= 4096, "length": integer,
                                           "root": HEX, "sha256": HEX, "stored": integer}),
        "key": UUID, "keys": records, "log": lambda log: isinstance(log, dict),
        "payloads": array(lambda p: is_object(p, {
            "commitment": HEX, "length": integer, "media": lambda m: m in MEDIA, "name": NAME, "sha256": HEX,
            "stored": integer}), 1, 64),
        "tokens": lambda t: is_object(t, {"count": lambda n: integer(n) and 1 <= n <= 256, "hash": HEX}),
    })
    check(("key" in entry) == ("content" in entry), f"{place}: key and content are there only together")
    payloads = [p["name"] for p in entry.get("payloads", [])]
    check(not payloads or "content" in entry, f"{place}: payloads without content")
    check(len(set(payloads)) == len(payloads), f"{place}: two payloads have one name")
    check(("log" in entry) == (entry["kind"] in LOG), f"{place}: kind {entry['kind']} with or without log")
    if "log" in entry:
        log = members(entry["log"], f"{place}: log", LOG[entry["kind"]],
                      PREDECESSOR if entry["kind"] == "log.opened" else {})
        if "predecessor" in log:
            check(log["predecessor"]["origin"] != log["origin"], f"{place}: a log that is its own predecessor")
            check("content" in entry, f"{place}: a predecessor without content")
        check("opening" not in entry["log"] or entry["seq"] == entry["epoch"] == 0, f"{place}: late opening")
    check(entry["v"] == (2 if "predecessor" in entry.get("log", {}) else 1), f"{place}: wrong v")
    return entry


def signer_of(entry, place):
    log = entry["log"]
    unsigned = {k: v for k, v in entry.items() if k != "mac"}
    unsigned["log"] = {k: v for k, v in log.items() if k != "signature"}
    text = json.dumps(unsigned, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    check(signature_holds(bytes.fromhex(log["signer"]), bytes.fromhex(log["signature"]),
                          b"audit-trail/1 log\0" + text.encode()), f"{place}: wrong signature")
    return log["signer"]


# ------------------------------------------------------------------ fields (format.md §4)

ALONE = ("actor", "capture", "correlation", "on_behalf_of", "session_id", "subject", "system")
NAMED = ("attributes/", "payloads/", "refs/")


def is_field(name):
    return name in ALONE or any(name.startswith(n) and name != n for n in NAMED)


def is_pattern(p):
    if not string(1, 300)(p):
        return False
    begin = p[:-1]
    return (any(n.startswith(begin) for n in ALONE + NAMED) or any(begin.startswith(n) for n in NAMED)
            if p.endswith("*") else is_field(p))


def any_match(patterns, name):
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


def commitment(salt, name, value):
    name = name.encode()
    return sha256(b"audit-trail/1 field\0", salt, len(name).to_bytes(2, "big"), name, value)


# ------------------------------------------------------------------ container and texts (evidence-bundle.md §1, §7)

def header(name, size):
    block = bytearray(512)
    for at, text in ((0, name), (100, "0000600"), (108, "0000000"), (116, "0000000"), (124, f"{size:011o}"),
                     (136, "00000000000"), (148, "        "), (156, "0"), (257, "ustar\x0000")):
        block[at:at + len(text)] = text.encode()
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def read_container(data):
    found, at = [], 0
    while True:
        block = data[at:at + 512]
        check(len(block) == 512, f"the file was cut at byte {len(data)}")
        if not any(block):
            check(len(data) == at + 1024 and not any(data[at:]), f"something else than the end from byte {at} on")
            return found
        name, digits = block[:100].split(b"\0")[0], block[124:135]
        check(re.fullmatch(rb"[!-~]+", name) and re.fullmatch(rb"[0-7]{11}", digits), f"header at byte {at}")
        name, size = name.decode(), int(digits, 8)
        check(block == header(name, size), f"header at byte {at} is not the one of {name}")
        end = at + 512 + (size + 511) // 512 * 512
        check(end <= len(data) and not any(data[at + 512 + size:end]), f"member {name} is cut, or padded wrongly")
        found.append((name, data[at + 512:at + 512 + size]))
        at = end


def ascii_quoted(text):
    return json.dumps(text).replace("\x7f", "\\u007f")


def query_text(query):
    if "events" in query:
        return f"{len(query['events'])} events, named by their ids"
    return ("events" + (f" of the session {ascii_quoted(query['session'])}" if "session" in query else "")
            + (f" from {query['from']} on" if "from" in query else "")
            + (f" before {query['to']}" if "to" in query else ""))


def readme(m):
    c = m["counts"]
    return (f"Evidence bundle of the audit log {m['origin']}\n"
            f"asked for   {m['query_text']}\n"
            f"found       {c['matched']} entries; with those of the log itself that are needed to check them: "
            f"{c['entries']}\n"
            f"disclosed   {c['fields']} fields of {c['open']} events, {c['payloads']} of them payloads of together "
            f"{c['payload_bytes']} bytes\n"
            f"not here    {c['withheld']} fields are withheld, the content of {c['erased']} events was erased\n"
            f"checkpoint  {m['size']} entries, root {m['root']}\n\n")


def limits(m):
    c = m["counts"]
    text = "What this bundle does not prove\n\n"
    text += ("- Completeness. These are the events that were named. What else belongs to them, it doesn't say.\n"
             if "events" in m["query"] else
             "- Completeness. These entries match; that they are all that match, only the whole log shows.\n")
    if c["withheld"]:
        text += (f"- Withheld. {c['withheld']} of {c['withheld'] + c['fields']} fields are not disclosed. "
                 "That they exist is proven, what they say is not.\n")
    if c["erased"]:
        text += (f"- Erased. The content of {c['erased']} events was erased. "
                 "What it said can't be shown any more.\n")
    return text + (f"- History. The log of this checkpoint extends {c['checkpoints'] - 1} earlier ones. "
                   "Of others it says nothing.\n" if c["checkpoints"] > 1 else
                   "- History. There is no earlier checkpoint here, so it doesn't show that the log only grew.\n")


def is_text(data, head, body_sha256):
    head = head.encode()
    return data.startswith(head) and hashlib.sha256(data[len(head):]).hexdigest() == body_sha256


# ------------------------------------------------------------------ the bundle

COUNTS = ("checkpoints", "entries", "erased", "fields", "matched", "open", "payload_bytes", "payloads", "withheld")
PATTERNS = {"only": array(is_pattern, 0, 256), "redact": array(is_pattern, 0, 256)}
HASHES = array(HEX)


def read_manifest(data):
    m = members(decode(data, "manifest.json"), "manifest.json", {
        "bundle": lambda b: b == "audit-trail-evidence/1", "counts": lambda c: is_object(c, dict.fromkeys(COUNTS, integer)),
        "members": array(lambda x: is_object(x, {"name": TEXT, "sha256": HEX, "size": integer})),
        "origin": TEXT, "query_text": TEXT, "root": HEX, "size": integer,
        "query": lambda q: is_object(q, {}, {"events": array(UUID, 1, 1000), "from": time, "session": string(1, 256),
                                             "to": time}), **PATTERNS})
    query = m["query"]
    check(query and (len(query) == 1 or "events" not in query), "manifest.json: no query, or two")
    check(rising(query.get("events", [])) and not query.get("from", "") >= query.get("to", "~"), "manifest.json: query")
    check(all(rising([p.encode() for p in m[kind]]) for kind in PATTERNS), "manifest.json: patterns don't rise")
    check(m["query_text"] == query_text(query), "manifest.json: query_text")
    return m


class Members:
    """The container's members, one behind the other, under their limits."""

    def __init__(self, data):
        self.all, self.at = read_container(data), 0

    def take(self, name, bytes_max):
        check(self.peek() == name, f"member {self.peek()} stands where {name} should be")
        data = self.all[self.at][1]
        check(len(data) <= bytes_max, f"member {name} is too long")
        self.at += 1
        return data

    def peek(self):
        return self.all[self.at][0] if self.at < len(self.all) else None


def read_lines(data, name, bytes_max, shape, optional=()):
    lines = data.split(b"\n")
    check(lines.pop() == b"", f"{name}: the last line doesn't end")
    for number, line in enumerate(lines, 1):
        place = f"{name} line {number}"
        check(len(line) < bytes_max, f"{place}: too long")
        yield place, members(decode(line, place), place, shape, optional)


def read_checkpoints(container):
    notes = []
    while (container.peek() or "").startswith("checkpoints/"):
        name = container.peek()
        found = re.fullmatch("checkpoints/([1-9][0-9]{0,18})", name)
        check(found, f"member {name} is not called after a tree size")
        notes.append((int(found[1]), container.take(name, MIB)))
    check(1 <= len(notes) <= 64 and rising(notes, lambda n: n[0]), "no checkpoints, too many, or not in order")
    return notes


def read_field(field, entry, index, container, place):
    """The value of a disclosed field, and its commitment."""
    name, salt = field["name"], bytes.fromhex(field["salt"])
    if not name.startswith("payloads/"):
        check("value" in field and "bytes" not in field and "sha256" not in field, f"{place}: {name} has no value")
        value = unbase64(field["value"], f"{place}: {name}")
        return value, commitment(salt, name, value)
    own = name[len("payloads/"):]
    parts = [p for p in entry.get("payloads", []) if p["name"] == own]
    check(parts and "bytes" in field and "sha256" in field and "value" not in field, f"{place}: {name} is no payload")
    value = container.take(f"payloads/{index}-{own}", 256 * MIB)
    check(len(value) == field["bytes"] == parts[0]["length"], f"{place}: {name} has another length")
    committed = commitment(salt, name, value)
    check(sha256(value).hex() == field["sha256"] and committed.hex() == parts[0]["commitment"],
          f"{place}: {name} is not the payload that the entry commits to")
    return value, committed


def read_front(data):
    """The members before the payloads, each decoded or under its own name, and the container behind them."""
    begin = b'{"bundle":"audit-trail-evidence/'
    if data[512:512 + len(begin)] != begin:
        raise Undecided("the file is no evidence bundle")
    if data[512 + len(begin):512 + len(begin) + 2] != b'1"':
        raise Undecided("the bundle is of another version than 1")
    check(len(data) <= 1 << 40, "the file is too long")
    front = types.SimpleNamespace(container=Members(data))
    take = front.container.take
    front.manifest = m = read_manifest(take("manifest.json", MIB))
    for name, head, body in ("README.txt", readme, README_SHA256), ("LIMITS.txt", limits, LIMITS_SHA256):
        check(is_text(take(name, 64 << 10), head(m), body), f"{name} is not the text that manifest.json gives")
    front.keys = members(decode(take("keys.json", MIB), "keys.json"), "keys.json", {
        "keys": array(lambda k: is_object(k, PUBLIC)), "opened": HEX, "origin": TEXT, "v": one, "vkey": TEXT})
    front.notes = read_checkpoints(front.container)
    front.consistency = members(decode(take("consistency.json", MIB), "consistency.json"), "consistency.json", {
        "v": one, "proofs": array(lambda p: is_object(p, {"hashes": HASHES, "new_size": integer, "old_size": integer}))})
    lines = {n: take(n, 8 << 30) for n in ("entries.jsonl", "multiproofs.jsonl", "disclosures.jsonl")}
    there = [{"name": n, "sha256": sha256(d).hex(), "size": len(d)} for n, d in front.container.all[1:front.container.at]]
    check(m["members"] == there, "a member is not the one that manifest.json lists")
    front.entries = read_lines(lines["entries.jsonl"], "entries.jsonl", 262144, {
        "entry": TEXT, "index": integer, "matched": lambda x: isinstance(x, bool), "proof": HASHES})
    front.multi = read_lines(lines["multiproofs.jsonl"], "multiproofs.jsonl", 4 * MIB, {
        "count": integer, "hashes": HASHES})
    front.disclosures = read_lines(lines["disclosures.jsonl"], "disclosures.jsonl", 32 * MIB, {
        "event": UUID, "fields": lambda x: isinstance(x, list), "index": integer, "v": one}, {"destroyed": integer})
    return front


def check_checkpoints(front, key, kept, undecided):
    """The roots of the checkpoints that the key signed, by size, and the sizes of those that others signed."""
    signed, foreign, m = {}, [], front.manifest
    for size, note in front.notes:
        opened = open_checkpoint(note, key, f"checkpoints/{size}")
        if opened is None:
            foreign.append(size)
        else:
            check(opened[0] == size, f"checkpoints/{size} is of size {opened[0]}")
            signed[size] = opened[1]
    check(front.notes[-1][0] == m["size"] and signed.get(m["size"], bytes.fromhex(m["root"])).hex() == m["root"],
          "manifest.json has another size or root than the greatest checkpoint")
    proofs = front.consistency["proofs"]
    check([(p["old_size"], p["new_size"]) for p in proofs] == [(a[0], b[0]) for a, b in zip(front.notes, front.notes[1:])],
          "consistency.json has not one proof from each checkpoint to the next")
    for old, new, hashes in ((p["old_size"], p["new_size"], unhex(p["hashes"])) for p in proofs):
        if old in signed and new in signed:
            extends(old, new, signed[old], signed[new], hashes, "consistency.json")
    for note in kept:
        try:
            opened = open_checkpoint(note, key, "the kept checkpoint")
        except Contradiction:
            opened = None
        if opened is None:
            undecided.append("a kept checkpoint is none of this log's")
        elif opened[0] not in signed:
            undecided.append(f"the bundle has no checkpoint over {opened[0]} entries to compare the kept one with")
        else:
            check(signed[opened[0]] == opened[1], f"the kept checkpoint over {opened[0]} entries has another root")
    return signed, foreign


class Walk:
    """The entries, and side by side what belongs to them."""

    def __init__(self, front):
        self.front, self.m, self.query = front, front.manifest, front.manifest["query"]
        self.size, self.root = self.m["size"], bytes.fromhex(self.m["root"])
        self.counts = dict.fromkeys(COUNTS, 0)
        self.chunk, self.last, self.first, self.origin = [], -1, None, None
        self.registered, self.writers, self.runs = set(), set(), {}
        self.erased, self.destroyers, self.found, self.session_unknown = [], {}, set(), 0
        for place, line in front.entries:
            self.entry(place, line)
        if self.chunk:
            self.multi_proof()
        check(next(front.multi, None) is None and next(front.disclosures, None) is None and front.container.peek() is None,
              "a multi-proof, a disclosure or a payload belongs to no entry")

    def entry(self, place, line):
        index, entry = line["index"], decode_entry(line["entry"], place)
        check(self.last < index and (self.last >= 0 or index == 0), f"{place}: index {index} doesn't rise, or isn't 0")
        self.last = index
        self.counts["entries"] += 1
        check(self.counts["entries"] <= 1 << 20, "too many entries")
        leaf = leaf_hash(line["entry"].encode())
        included(leaf, index, self.size, unhex(line["proof"]), self.root, place)
        self.first = self.first or leaf
        self.chunk.append((index, leaf))
        if len(self.chunk) == 1024:
            self.multi_proof()
        self.log_entry(index, entry, place)
        self.place_in_run(entry, place)
        if not line["matched"]:
            check(entry["kind"] in ("log.opened", "writer.opened", "key.registered", "key.destroyed"),
                  f"{place}: an entry of kind {entry['kind']} that the query didn't find")
            return
        self.counts["matched"] += 1
        self.found.add(entry["event"])
        query = self.query
        check("events" not in query or entry["event"] in query["events"], f"{place}: the query doesn't name this event")
        check(query.get("from", "") <= entry["time"] < query.get("to", "~"), f"{place}: not of the time asked for")
        check("session" not in query or "content" in entry, f"{place}: it has no content, so no session")
        if "content" in entry:
            self.disclosure(index, entry)

    def multi_proof(self):
        place, line = next(self.front.multi, (None, None))
        check(line, "multiproofs.jsonl ends before all entries are covered")
        check(line["count"] == len(self.chunk), f"{place} covers another number of entries")
        all_included(self.chunk, self.size, unhex(line["hashes"]), self.root, place)
        self.chunk = []

    def log_entry(self, index, entry, place):
        """What the log says of itself: keys, signatures, erasures."""
        kind, log = entry["kind"], entry.get("log", {})
        check((index == 0) == (kind == "log.opened"), f"{place}: log.opened is the first entry, and no other")
        self.origin = log.get("origin", self.origin)
        check("head" not in log or log["head"]["size"] == index, f"{place}: head of another size")
        public = log["keys"] if kind in ("log.opened", "key.registered") else []
        self.registered |= {(k["role"], k["public"]) for k in public}
        own = {k["public"] for k in public if k["role"] == "writer"}
        if "signer" in log:
            signer = signer_of(entry, place)
            check(signer in self.writers or index == 0 and signer in own, f"{place}: signed by no registered writer key")
            self.writers |= own
        if kind == "key.destroyed":
            self.destroyers[index] = log["keys"]

    def place_in_run(self, entry, place):
        run, opens, before = entry["run"], "opening" in entry.get("log", {}), self.runs.get(entry["run"])
        check(opens == (before is None), f"{place}: run {run} has no opening here, or two")
        if before:
            check(before["kind"] != "writer.closed", f"{place}: run {run} goes on after it was closed")
            check(entry["seq"] > before["seq"] and entry["epoch"] >= before["epoch"], f"{place}: seq or epoch doesn't rise")
            check(entry["recorded"] >= before["recorded"], f"{place}: recorded before the entry before it")
        self.runs[run] = {k: entry[k] for k in ("seq", "epoch", "recorded", "kind")}

    def disclosure(self, index, entry):
        place, line = next(self.front.disclosures, (None, None))
        check(line and line["index"] == index and line["event"] == entry["event"],
              f"{place or 'disclosures.jsonl'}: not the line of the entry at index {index}")
        if "destroyed" in line:
            check(not line["fields"] and line["destroyed"] > index, f"{place}: erased, with fields or too early")
            self.erased.append((entry["key"], line["destroyed"]))
            self.session_unknown += 1
            return
        content, only, redact, before, session = entry["content"], self.m["only"], self.m["redact"], (b"", -1), None
        for field in line["fields"]:
            members(field, f"{place}: field",
                    {"name": string(1, 300), "position": integer, "proof": HASHES, "salt": HEX},
                    {"bytes": integer, "sha256": HEX, "value": TEXT})
            name, position = field["name"], field["position"]
            check(before[0] < name.encode() and before[1] < position and is_field(name), f"{place}: {name} doesn't rise")
            before = name.encode(), position
            check((not only or any_match(only, name)) and not any_match(redact, name),
                  f"{place}: {name} is disclosed, and manifest.json says that it is not")
            value, committed = read_field(field, entry, index, self.front.container, place)
            included(leaf_hash(committed), position, content["fields"], unhex(field["proof"]),
                     bytes.fromhex(content["root"]), f"{place}: {name}")
            if name.startswith("payloads/"):
                self.counts["payloads"] += 1
                self.counts["payload_bytes"] += len(value)
            elif name == "session_id":
                session = value
        withheld = content["fields"] - len(line["fields"])
        self.counts["open"] += 1
        self.counts["fields"] += len(line["fields"])
        self.counts["withheld"] += withheld
        if "session" in self.query:
            asked = json.dumps(self.query["session"], ensure_ascii=False).encode()
            check(session == asked or session is None and withheld > 0, f"{place}: of another session")
            self.session_unknown += session is None


def verify(data, policy):
    """Returns what was checked, in words; raises Contradiction or Undecided."""
    undecided = []
    front = read_front(data)
    m, keys = front.manifest, front.keys
    stated = parse_vkey(keys["vkey"], "keys.json")
    key = policy.key or stated
    if not policy.key:
        undecided.append("keys taken from the bundle: no public key was given")
    signed, foreign = check_checkpoints(front, key, policy.kept, undecided)
    walk = Walk(front)
    counts, query = walk.counts, m["query"]
    counts.update(checkpoints=len(front.notes), erased=len(walk.erased))
    check(all(key_id in walk.destroyers.get(at, ()) for key_id, at in walk.erased), "an erasure is not that of its key")
    check(counts == m["counts"], f"manifest.json counts {m['counts']}, there are {counts}")
    check(not counts["withheld"] or m["only"] or m["redact"], "fields are withheld, and manifest.json says that none are")
    check(set(query.get("events", [])) <= walk.found, "an event that the query names is not here")
    publisher = ("publisher", key["public"].hex())
    check(walk.first and keys["opened"] == walk.first.hex(), "keys.json has another first entry")
    check(keys["origin"] == m["origin"] == walk.origin == stated["name"], "the log's origin differs between members")
    check(keys["keys"] == [{"public": p, "role": r} for r, p in sorted(walk.registered)]
          and ("publisher", stated["public"].hex()) in walk.registered, "keys.json is not what the entries register")
    if signed or publisher in walk.registered:
        check(not foreign, f"checkpoints/{foreign[:1]} is signed by another key")
        check(m["origin"] == key["name"] and publisher in walk.registered and stated["text"] == key["text"],
              "the log's origin or publisher key is another than the one that was given")
    else:
        undecided.append("the public key has nothing to do with this bundle")
    check(policy.opened in (None, walk.first.hex()), f"the first entry has leaf hash {walk.first.hex()}")
    if not counts["matched"]:
        undecided.append("the bundle holds nothing that its query found")
    if m["size"] not in signed:
        undecided.append("the greatest checkpoint is not signed by the public key")
    if undecided:
        raise Undecided("; ".join(undecided))
    open_questions = ["MAC chains"] + ([] if policy.opened else ["whether the writer keys are the log's (--opened)"])
    open_questions += [] if "events" in query else ["whether these are all the entries that match"]
    if "session" in query and walk.session_unknown:
        open_questions.append(f"the session of {walk.session_unknown} events")
    return (f"held: {counts['matched']} entries of {m['origin']} under the checkpoint over {m['size']}, {counts['fields']}"
            f" fields and {counts['erased']} erasures; not checked: {', '.join(open_questions)}")


class Policy:
    """What the verifier knows of the log."""

    def __init__(self, vkey=None, opened=None, kept=()):
        self.key = parse_vkey(vkey.strip(), "--vkey") if vkey else None
        self.opened, self.kept = opened, kept


def judge(path, policy):
    try:
        return 0, verify(path.read_bytes(), policy)
    except Contradiction as e:
        return 1, f"contradicted: {e}"
    except (Undecided, OSError) as e:
        return 2, f"undecided: {e}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--vkey", help="the log's public key, or @FILE")
    parser.add_argument("--opened", help="leaf hash of the log's first entry")
    parser.add_argument("--checkpoint", action="append", default=[], type=pathlib.Path, help="one that you kept")
    args = parser.parse_args()
    try:
        vkey = pathlib.Path(args.vkey[1:]).read_text() if (args.vkey or "").startswith("@") else args.vkey
        policy = Policy(vkey, args.opened, [path.read_bytes() for path in args.checkpoint])
    except (Contradiction, OSError, ValueError) as e:
        parser.exit(2, f"{e}\n")
    codes = set()
    for path in args.files:
        code, message = judge(path, policy)
        # What was read steers no terminal.
        print(f"{code}\t{path}\t" + "".join(c if c.isprintable() else "\ufffd" for c in message))
        codes.add(code)
    return 1 if 1 in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main())
