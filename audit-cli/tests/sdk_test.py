#!/usr/bin/env python3
"""The official Python packages of OpenAI and Anthropic through the gateway, with only their base URL set.

Every recorded exchange that the packages can send is sent twice: straight to the fake provider, and through
`audit-trail serve`. What the packages make of both answers must be equal, and the log must hold each exchange and verify.
Needs AUDIT_FIXTURES; without it says that it skips. AUDIT_TRAIL_BIN names the binary (default: target/debug).
"""
import glob
import inspect
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = os.environ.get("AUDIT_FIXTURES")
BINARY = os.environ.get("AUDIT_TRAIL_BIN", str(ROOT / "target/debug/audit-trail"))
SECRET = "sk-sdk-test-secret-0123456789"

if FIXTURES:
    import anthropic
    import openai


def exchanges(provider, api):
    found = []
    for path in sorted(glob.glob(f"{FIXTURES}/llm-traffic/exchanges/{provider}/*.json")
                       + glob.glob(f"{FIXTURES}/llm-traffic/sessions/*.jsonl")):
        with open(path, encoding="utf-8") as f:
            found += [json.loads(line) for line in f] if path.endswith(".jsonl") else [json.load(f)]
    return [d for d in found if d["provider"] == provider and d["api"] == api
            and d["request"]["body_fidelity"] != "elided" and d["request"].get("body_encoding") == "utf-8"]


def split(function, body):
    """Arguments that the package knows, and the rest for `extra_body`."""
    known = inspect.signature(function).parameters
    args = {k: v for k, v in body.items() if k in known}
    rest = {k: v for k, v in body.items() if k not in known}
    if rest:
        args["extra_body"] = rest
    return args


def outcome(call):
    """What a program that uses the package sees: the parsed answer, its stream, or the error."""
    try:
        answer = call()
        if hasattr(answer, "__iter__") and not hasattr(answer, "model_dump"):
            return ["stream"] + [item.model_dump() if hasattr(item, "model_dump") else item for item in answer]
        return ["answer", answer.model_dump() if hasattr(answer, "model_dump") else str(answer)]
    except (openai.APIError, anthropic.APIError) as e:
        return ["error", type(e).__name__, getattr(e, "status_code", None), getattr(e, "body", None)]


@unittest.skipUnless(FIXTURES, "AUDIT_FIXTURES is not set")
class Sdk(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.provider = subprocess.Popen(
            [sys.executable, f"{FIXTURES}/fake_provider.py", f"{FIXTURES}/llm-traffic", "--repeat", "last",
             "--allow-header-faults"],
            stdout=subprocess.PIPE, text=True)
        cls.direct = cls.provider.stdout.readline().split()[1]
        passphrase = pathlib.Path(cls.dir.name, "passphrase")
        passphrase.write_text("a passphrase for tests\n")
        passphrase.chmod(0o600)
        cls.environment = {**os.environ, "AUDIT_TRAIL_PASSPHRASE_FILE": str(passphrase),
                           "XDG_STATE_HOME": cls.dir.name + "/state", "HOME": cls.dir.name}
        cls.trail("init", "--origin", "sdk.example/log")
        cls.gateway_process = subprocess.Popen(
            [BINARY, "serve", "--listen", "127.0.0.1:0", "--upstream", f"openai={cls.direct}",
             "--upstream", f"anthropic={cls.direct}"],
            cwd=cls.dir.name, env=cls.environment, stderr=subprocess.PIPE, text=True)
        for line in cls.gateway_process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                cls.gateway = found[1]
                break
        else:
            raise AssertionError("the gateway didn't start")

    @classmethod
    def tearDownClass(cls):
        cls.gateway_process.send_signal(signal.SIGTERM)
        code = cls.gateway_process.wait(30)
        rest = cls.gateway_process.stderr.read()
        cls.gateway_process.stderr.close()
        cls.provider.terminate()
        cls.provider.wait(30)
        cls.provider.stdout.close()
        try:
            assert code == 0, f"serve ended with {code}: {rest}"
            verified = cls.trail("verify", "--content", "--json", "--auditor-key", "audit-trail-auditor.key")
            assert json.loads(verified)["exit"] == 0, verified
        finally:
            cls.dir.cleanup()

    @classmethod
    def trail(cls, *args):
        done = subprocess.run([BINARY, *args], cwd=cls.dir.name, env=cls.environment, capture_output=True, text=True)
        assert done.returncode == 0, f"audit-trail {' '.join(args)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def openai(self, base):
        return openai.OpenAI(api_key=SECRET, base_url=base + "/v1", max_retries=0, timeout=20)

    def anthropic(self, base):
        return anthropic.Anthropic(api_key=SECRET, base_url=base, max_retries=0, timeout=20)

    def compare(self, all_of_them, client_of, prefix, function_of):
        sent = 0
        for d in all_of_them:
            body = json.loads(d["request"]["body"])
            with self.subTest(d["id"]):
                seen = []
                for base in (self.direct, self.gateway + prefix):
                    # Where several answers to one request were recorded they take turns; both sides get the first.
                    urllib.request.urlopen(urllib.request.Request(self.direct + "/__fake__/reset", method="POST")).close()
                    function = function_of(client_of(base))
                    seen.append(outcome(lambda f=function: f(**split(f, body))))
                # Objects of the packages may hold ids that they made up themselves; the fixtures' don't.
                self.assertEqual(seen[0], seen[1])
                sent += 1
        return sent

    def test_openai_chat(self):
        found = exchanges("openai", "chat")
        self.assertGreater(len(found), 60)
        self.compare(found, self.openai, "/openai", lambda c: c.chat.completions.create)

    def test_openai_responses(self):
        found = exchanges("openai", "responses")
        self.assertGreater(len(found), 35)
        self.compare(found, self.openai, "/openai", lambda c: c.responses.create)

    def test_openai_embeddings(self):
        found = exchanges("openai", "embeddings")
        self.assertGreater(len(found), 4)
        self.compare(found, self.openai, "/openai", lambda c: c.embeddings.create)

    def test_anthropic_messages(self):
        found = exchanges("anthropic", "messages")
        self.assertGreater(len(found), 45)
        self.compare(found, self.anthropic, "/anthropic", lambda c: c.messages.create)

    def test_models_and_unknown_paths_are_passed_on(self):
        seen = [outcome(lambda b=b: self.openai(b).models.list()) for b in (self.direct, self.gateway + "/openai")]
        self.assertEqual(seen[0], seen[1])

    def test_faults_look_the_same(self):
        body = json.loads(next(d for d in exchanges("openai", "chat") if not d["streaming"])["request"]["body"])
        for fault in ("429", "500", "503", "bad-json"):
            with self.subTest(fault):
                seen = []
                for base in (self.direct, self.gateway + "/openai"):
                    f = self.openai(base).chat.completions.create
                    seen.append(outcome(lambda f=f, k=fault: f(**split(f, body), extra_headers={"x-fake-fault": k})))
                self.assertEqual(seen[0], seen[1])

    def test_the_log_holds_what_was_said(self):
        body = {"model": "m", "messages": [{"role": "user", "content": "marker 4711"}]}
        outcome(lambda: self.openai(self.gateway + "/openai").chat.completions.create(
            **body, extra_headers={"x-audit-session": "sdk-session"}))
        time.sleep(0.2)
        lines = [json.loads(line) for line in
                 self.trail("log", "--json", "--session", "sdk-session").splitlines()]
        self.assertEqual([line["event"]["kind"] for line in lines], ["llm.request", "llm.response"])
        self.assertIn("marker 4711", lines[0]["event"]["payloads"][0]["text"])
        self.assertNotIn(SECRET, json.dumps(lines))
        self.assertIn("audit.credential", json.dumps(lines[0]))


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=1)
    result = program.result
    # One test can fail in several of its cases.
    bad = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{max(0, result.testsRun - bad - len(result.skipped))} passed, {bad} failed, {len(result.skipped)} skipped")
    if FIXTURES and result.skipped:
        sys.exit("a skip fails where AUDIT_FIXTURES is set")
    sys.exit(bool(bad))
