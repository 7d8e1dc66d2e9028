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

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

README_SHA256 = "45e433a8fef3a37cd0216a3346abe83d4b9fd1f0c9958f52b75d6e28fe67d7bb"  # of README-1.txt
LIMITS_SHA256 = "0ffb2941d8046214bb8635910918288ff8bcd9bf5beeb14ec7b3e6952329ef10"  # of LIMITS-1.txt
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
        "time": time, "v": lambda v: type(v) is int and v == 1,
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
        members(entry["log"], f"{place}: log", LOG[entry["kind"]])
        check("opening" not in entry["log"] or entry["seq"] == entry["epoch"] == 0, f"{place}: late opening")
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
        "members": array(lambda x: is_object(x, {"name": lambda n: isinstance(n, str), "sha256": HEX, "size": integer})),
        "origin": lambda o: isinstance(o, str), "query_text": lambda t: isinstance(t, str), "root": HEX, "size": integer,
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


def verify(data, policy):
    """Returns what was checked, in words; raises Contradiction or Undecided."""
    begin = b'{"bundle":"audit-trail-evidence/'
    if data[512:512 + len(begin)] != begin:
        raise Undecided("the file is no evidence bundle")
    if data[512 + len(begin):512 + len(begin) + 2] != b'1"':
        raise Undecided("the bundle is of another version than 1")
    check(len(data) <= 1 << 40, "the file is too long")
    undecided, notes_on = [], []
    container = Members(data)
    m = read_manifest(container.take("manifest.json", MIB))
    size, root, query, counts = m["size"], bytes.fromhex(m["root"]), m["query"], dict.fromkeys(COUNTS, 0)
    for name, head, body in ("README.txt", readme, README_SHA256), ("LIMITS.txt", limits, LIMITS_SHA256):
        check(is_text(container.take(name, 64 << 10), head(m), body), f"{name} is not the text that manifest.json gives")
    keys = members(decode(container.take("keys.json", MIB), "keys.json"), "keys.json", {
        "keys": array(lambda k: is_object(k, PUBLIC)), "opened": HEX, "origin": lambda o: isinstance(o, str),
        "v": lambda v: type(v) is int and v == 1, "vkey": lambda v: isinstance(v, str)})
    notes = read_checkpoints(container)
    consistency = members(decode(container.take("consistency.json", MIB), "consistency.json"), "consistency.json", {
        "v": lambda v: type(v) is int and v == 1,
        "proofs": array(lambda p: is_object(p, {"hashes": HASHES, "new_size": integer, "old_size": integer}))})
    entries, multi, disclosures = (container.take(name, 8 << 30)
                                   for name in ("entries.jsonl", "multiproofs.jsonl", "disclosures.jsonl"))
    check(m["members"] == [{"name": n, "sha256": sha256(d).hex(), "size": len(d)} for n, d in container.all[1:container.at]],
          "a member is not the one that manifest.json lists")

    # The key: from the verifier's side, or nothing is decided.
    stated = parse_vkey(keys["vkey"], "keys.json")
    key = policy.key or stated
    if not policy.key:
        undecided.append("keys taken from the bundle: no public key was given")
    counts["checkpoints"] = len(notes)
    signed, foreign = {}, []
    for noted_size, note in notes:
        opened = open_checkpoint(note, key, f"checkpoints/{noted_size}")
        if opened is None:
            foreign.append(noted_size)
        else:
            check(opened[0] == noted_size, f"checkpoints/{noted_size} is of size {opened[0]}")
            signed[noted_size] = opened[1]
    check(notes[-1][0] == size and signed.get(size, root) == root, "manifest.json has another size or root")
    pairs = list(zip(notes, notes[1:]))
    check([(p["old_size"], p["new_size"]) for p in consistency["proofs"]] == [(a[0], b[0]) for a, b in pairs],
          "consistency.json has not one proof from each checkpoint to the next")
    for proof in consistency["proofs"]:
        old, new = proof["old_size"], proof["new_size"]
        if old in signed and new in signed:
            extends(old, new, signed[old], signed[new], unhex(proof["hashes"]), "consistency.json")
    for kept in policy.kept:
        try:
            opened = open_checkpoint(kept, key, "the kept checkpoint")
        except Contradiction as e:
            opened = undecided.append(str(e))
        if opened is None:
            undecided.append("a kept checkpoint is none of this log's")
        elif opened[0] not in signed:
            undecided.append(f"the bundle has no checkpoint over {opened[0]} entries to compare the kept one with")
        else:
            check(signed[opened[0]] == opened[1], f"the kept checkpoint over {opened[0]} entries has another root")

    # The entries, and side by side what belongs to them.
    multi = read_lines(multi, "multiproofs.jsonl", 4 * MIB, {"count": integer, "hashes": HASHES})
    disclosures = read_lines(disclosures, "disclosures.jsonl", 32 * MIB, {
        "event": UUID, "fields": lambda x: isinstance(x, list), "index": integer,
        "v": lambda v: type(v) is int and v == 1}, {"destroyed": integer})
    field_shape = ({"name": string(1, 300), "position": integer, "proof": HASHES, "salt": HEX},
                   {"bytes": integer, "sha256": HEX, "value": lambda v: isinstance(v, str)})
    chunk, last, first, registered, writers, runs, erased, found = [], -1, None, set(), set(), {}, [], set()
    destroyers, session_unknown = {}, 0

    def multi_proof():
        place, line = next(multi, (None, None))
        check(line, "multiproofs.jsonl ends before all entries are covered")
        check(line["count"] == len(chunk), f"{place} covers another number of entries")
        all_included(chunk, size, unhex(line["hashes"]), root, place)
        chunk.clear()

    for place, line in read_lines(entries, "entries.jsonl", 262144, {
            "entry": lambda e: isinstance(e, str), "index": integer, "matched": lambda b: isinstance(b, bool),
            "proof": HASHES}):
        index, entry = line["index"], decode_entry(line["entry"], place)
        check(last < index and (last >= 0 or index == 0), f"{place}: index {index} doesn't rise, or isn't 0")
        last = index
        counts["entries"] += 1
        check(counts["entries"] <= 1 << 20, "too many entries")
        leaf, log, kind, run = leaf_hash(line["entry"].encode()), entry.get("log", {}), entry["kind"], entry["run"]
        included(leaf, index, size, unhex(line["proof"]), root, place)
        chunk.append((index, leaf))
        if len(chunk) == 1024:
            multi_proof()
        # What the log says of itself.
        check((index == 0) == (kind == "log.opened"), f"{place}: log.opened is the first entry, and no other")
        first = first or (leaf, log["origin"])
        check("head" not in log or log["head"]["size"] == index, f"{place}: head of another size")
        public = log["keys"] if kind in ("log.opened", "key.registered") else []
        registered |= {(k["role"], k["public"]) for k in public}
        own = {k["public"] for k in public if k["role"] == "writer"}
        if "signer" in log:
            signer = signer_of(entry, place)
            check(signer in writers or index == 0 and signer in own, f"{place}: signed by no registered writer key")
            writers |= own
        if kind == "key.destroyed":
            destroyers[index] = log["keys"]
        # Its place in its run.
        if run in runs:
            before = runs[run]
            check("opening" not in log and not before["closed"], f"{place}: run {run} is opened twice, or was closed")
            check(entry["seq"] > before["seq"] and entry["epoch"] >= before["epoch"], f"{place}: seq or epoch doesn't rise")
            check(entry["recorded"] >= before["recorded"], f"{place}: recorded before the entry before it")
        else:
            check("opening" in log, f"{place}: run {run} has no opening here")
        runs[run] = {**{k: entry[k] for k in ("seq", "epoch", "recorded")}, "closed": kind == "writer.closed"}
        # Whether the query asks for it.
        if not line["matched"]:
            check(kind in ("log.opened", "writer.opened", "key.registered", "key.destroyed"),
                  f"{place}: an entry of kind {kind} that the query didn't find")
            continue
        counts["matched"] += 1
        found.add(entry["event"])
        check("events" not in query or entry["event"] in query["events"], f"{place}: the query doesn't name this event")
        check(query.get("from", "") <= entry["time"] < query.get("to", "~"), f"{place}: not of the time asked for")
        check("session" not in query or "content" in entry, f"{place}: it has no content, so no session")
        if "content" not in entry:
            continue
        # What is disclosed of it.
        place, line = next(disclosures, (None, None))
        check(line and line["index"] == index and line["event"] == entry["event"],
              f"{place or 'disclosures.jsonl'}: not the line of the entry at index {index}")
        if "destroyed" in line:
            check(not line["fields"] and line["destroyed"] > index, f"{place}: erased, with fields or too early")
            erased.append((entry["key"], line["destroyed"]))
            session_unknown += 1
            continue
        content, names, positions, session = entry["content"], [], [], None
        for field in line["fields"]:
            members(field, f"{place}: field", *field_shape)
            name = field["name"]
            names.append(name.encode())
            positions.append(field["position"])
            check(rising(names[-2:]) and rising(positions[-2:]) and is_field(name), f"{place}: {name} doesn't rise")
            check((not m["only"] or any_match(m["only"], name)) and not any_match(m["redact"], name),
                  f"{place}: {name} is disclosed, and manifest.json says that it is not")
            value, committed = read_field(field, entry, index, container, place)
            included(leaf_hash(committed), field["position"], content["fields"], unhex(field["proof"]),
                     bytes.fromhex(content["root"]), f"{place}: {name}")
            if name.startswith("payloads/"):
                counts["payloads"] += 1
                counts["payload_bytes"] += len(value)
            elif name == "session_id":
                session = value
        counts["open"] += 1
        counts["fields"] += len(names)
        counts["withheld"] += content["fields"] - len(names)
        if "session" in query:
            asked = json.dumps(query["session"], ensure_ascii=False).encode()
            check(session == asked or session is None and len(names) < content["fields"], f"{place}: of another session")
            session_unknown += session is None
    if chunk:
        multi_proof()
    check(next(multi, None) is None and next(disclosures, None) is None and container.peek() is None,
          "a multi-proof, a disclosure or a payload belongs to no entry")

    # What can be said once everything was read.
    counts["erased"] = len(erased)
    check(all(key_id in destroyers.get(at, ()) for key_id, at in erased), "an erasure is not the one of its entry's key")
    check(counts == m["counts"], f"manifest.json counts {m['counts']}, there are {counts}")
    check(not counts["withheld"] or m["only"] or m["redact"], "fields are withheld, and manifest.json says that none are")
    check(set(query.get("events", [])) <= found, "an event that the query names is not here")
    ours = ("publisher", key["public"].hex())
    known = bool(signed) or ours in registered
    check(first and keys["opened"] == first[0].hex() and keys["origin"] == m["origin"] == first[1] == stated["name"]
          and keys["keys"] == [{"public": p, "role": r} for r, p in sorted(registered)]
          and ("publisher", stated["public"].hex()) in registered, "keys.json is not what the entries register")
    if known:
        check(not foreign, f"checkpoints/{foreign[:1]} is signed by another key")
        check(m["origin"] == key["name"] and ours in registered and stated["text"] == key["text"],
              "the log's origin or publisher key is another than the one that was given")
    else:
        undecided.append("the public key has nothing to do with this bundle")
    check(policy.opened in (None, first[0].hex()), f"the first entry has leaf hash {first[0].hex()}")
    if not counts["matched"]:
        undecided.append("the bundle holds nothing that its query found")
    if size not in signed:
        undecided.append("the greatest checkpoint is not signed by the public key")
    if undecided:
        raise Undecided("; ".join(undecided))
    notes_on += ["MAC chains"] + ([] if policy.opened else ["whether the writer keys are the log's (--opened)"])
    notes_on += [] if "events" in query else ["whether these are all the entries that match"]
    notes_on += [f"the session of {session_unknown} events"] if "session" in query and session_unknown else []
    return (f"held: {counts['matched']} entries of {m['origin']} under the checkpoint over {size}, {counts['fields']} fields"
            f" and {counts['erased']} erasures; not checked: {', '.join(notes_on)}")


class Policy:
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
