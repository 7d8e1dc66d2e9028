#!/usr/bin/env python3
"""Real clients behind `audit-trail run` and `audit-trail serve --intercept`: curl, Python and Node.

A provider of the test's own speaks TLS with a certificate that the machine trusts (SSL_CERT_FILE) and clients of the proxy
never see. Each client gets nothing but the environment that `run` gives it. AUDIT_TRAIL_BIN names the binary (default:
target/debug).
"""
import datetime
import hashlib
import http.server
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import unittest

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("AUDIT_TRAIL_BIN", str(ROOT / "target/debug/audit-trail"))
SECRET = "sk-proxy-test-secret-0123456789"
# Loopback, and not an address that `run` keeps from the proxy.
HOST = "127.0.0.2"
OTHER = "127.0.0.3"

ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}}).encode()
EVENTS = [b'data: {"id":"chatcmpl-2","object":"chat.completion.chunk","created":1,"model":"gpt-x","choices":'
          b'[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % word for word in (b"fo", b"ur")]
EVENTS.append(b"data: [DONE]\n\n")


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, dict(self.headers), body))
        if json.loads(body).get("stream"):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for event in EVENTS:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


def authority_and_certificate(folder):
    """An authority of the machine's, and a certificate of it for both addresses."""
    now = datetime.datetime.now(datetime.timezone.utc)
    def certificate(name, issuer, key, signer, *extensions):
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=2))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())
    named = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate(named("the machine's authority"), named("the machine's authority"), ca_key, ca_key,
                     (x509.BasicConstraints(ca=True, path_length=0), True),
                     (x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), False))
    addresses = [x509.IPAddress(ipaddress.ip_address(a)) for a in (HOST, OTHER)]
    leaf = certificate(named("provider"), ca.subject, key, ca_key, (x509.SubjectAlternativeName(addresses), False),
                       (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False))
    pem = serialization.Encoding.PEM
    (folder / "machine-ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(pem))
    (folder / "leaf.key").write_bytes(key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def provider(folder, host):
    server = http.server.ThreadingHTTPServer((host, 0), Provider)
    server.seen = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


BODY = json.dumps({"model": "gpt-x", "messages": [{"role": "user", "content": "two and two?"}]})
PYTHON = {
    "urllib": """
import sys, urllib.request
url, body, key = sys.argv[1:4]
request = urllib.request.Request(url, body.encode(), {"content-type": "application/json", "authorization": "Bearer " + key})
print(urllib.request.urlopen(request, timeout=20).read().decode())""",
    "requests": """
import sys, requests
url, body, key = sys.argv[1:4]
answer = requests.post(url, body.encode(), headers={"content-type": "application/json", "authorization": "Bearer " + key}, timeout=20)
print(answer.text)""",
    "httpx": """
import sys, httpx
url, body, key = sys.argv[1:4]
answer = httpx.post(url, content=body.encode(), headers={"content-type": "application/json", "authorization": "Bearer " + key}, timeout=20)
print(answer.text)""",
    "openai": """
import json, sys, openai
url, body, key = sys.argv[1:4]
client = openai.OpenAI(api_key=key, base_url=url.rsplit("/chat", 1)[0], max_retries=0, timeout=20)
print(client.chat.completions.create(**json.loads(body)).model_dump_json(exclude_unset=True))""",
}
# What `https-proxy-agent` does, by Node's own modules: it trusts what NODE_EXTRA_CA_CERTS adds.
NODE = """
const [url, body, key] = process.argv.slice(1);
const http = require('http'), https = require('https'), tls = require('tls');
const target = new URL(url), proxy = new URL(process.env.HTTPS_PROXY);
const connect = http.request({host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: target.host});
connect.on('error', e => { console.error(e); process.exit(1); });
connect.on('connect', (answer, socket) => {
  if (answer.statusCode !== 200) { console.error(answer.statusCode); process.exit(1); }
  const secured = tls.connect({socket, host: target.hostname}, () => {
    const request = https.request(url, {method: 'POST', createConnection: () => secured,
      headers: {'content-type': 'application/json', 'content-length': Buffer.byteLength(body), authorization: 'Bearer ' + key}});
    request.on('response', r => { let text = ''; r.on('data', d => text += d); r.on('end', () => { console.log(text); process.exit(0); }); });
    request.end(body);
  });
  secured.on('error', e => { console.error(e); process.exit(1); });
});
connect.end();"""


class Proxy(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.temporary.name)
        authority_and_certificate(cls.dir)
        cls.provider, cls.other = provider(cls.dir, HOST), provider(cls.dir, OTHER)
        cls.url = f"https://{HOST}:{cls.provider.server_port}/v1/chat/completions"
        passphrase = cls.dir / "passphrase"
        passphrase.write_text("a passphrase for tests\n")
        passphrase.chmod(0o600)
        cls.environment = {"PATH": os.environ["PATH"], "HOME": str(cls.dir), "XDG_STATE_HOME": str(cls.dir / "state"),
                           "AUDIT_TRAIL_PASSPHRASE_FILE": str(passphrase),
                           "SSL_CERT_FILE": str(cls.dir / "machine-ca.pem")}
        cls.trail("init", "--origin", "proxy.example/log")
        # `init` made one for the known providers; the test's provider needs another.
        cls.trail("ca", "create", "--host", HOST, "--file", "test-ca.key")
        settings = cls.dir / "audit-trail.toml"
        text = settings.read_text().replace("audit-trail-ca.key", "test-ca.key")
        settings.write_text(text + f'hosts = ["{HOST}"]\n')

    @classmethod
    def tearDownClass(cls):
        try:
            verified = cls.trail("verify", "--content", "--json", "--auditor-key", "audit-trail-auditor.key")
            assert json.loads(verified.stdout)["exit"] == 0, verified
            for server in (cls.provider, cls.other):
                server.shutdown()
                server.server_close()
        finally:
            cls.temporary.cleanup()

    @classmethod
    def trail(cls, *args, code=0, **more):
        done = subprocess.run([BINARY, *args], cwd=cls.dir, env={**cls.environment, **more}, capture_output=True,
                              text=True, timeout=120)
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert SECRET not in done.stderr
        return done

    def setUp(self):
        self.provider.seen.clear()
        self.other.seen.clear()

    def events(self, session):
        lines = self.trail("log", "--session", session, "--json").stdout.splitlines()
        return [json.loads(line)["event"] for line in lines]

    def check(self, session, answer, kinds):
        """The client got the provider's answer, and the provider the client's request; both are in the log."""
        self.assertEqual(json.loads(answer)["choices"][0]["message"]["content"], "four")
        [(path, headers, body)] = self.provider.seen
        self.assertEqual(path, "/v1/chat/completions")
        self.assertEqual(headers.get("Authorization", headers.get("authorization")), "Bearer " + SECRET)
        events = self.events(session)
        self.assertEqual([e["kind"] for e in events], kinds)
        request, response = (next(e for e in events if e["kind"] == kind) for kind in ("llm.request", "llm.response"))
        self.assertEqual(self.trail("show", request["id"], "--payload", "request.body").stdout.encode(), body)
        self.assertEqual(self.trail("show", response["id"], "--payload", "response.body").stdout.encode(), ANSWER)
        self.assertEqual(request["attributes"]["audit.capture.point"], "intercepting_proxy")
        self.assertNotIn(SECRET, json.dumps(events))
        return events

    RUN = ["agent.session.started", "llm.request", "llm.response", "agent.session.ended"]

    def test_curl(self):
        done = self.trail("run", "--session", "curl", "--", "curl", "-sS", "-H", "content-type: application/json", "-H",
                          f"authorization: Bearer {SECRET}", "-d", BODY, self.url)
        opened = self.check("curl", done.stdout, self.RUN)[0]["attributes"]
        line = ["curl", "-sS", "-H", "content-type: application/json", "-H", f"authorization: Bearer {SECRET}", "-d", BODY,
                self.url]
        expected = hashlib.sha256(b"".join(part.encode() + b"\0" for part in line)).hexdigest()
        self.assertEqual(opened["audit.command.sha256"], "sha256:" + expected)
        binary = pathlib.Path(opened["process.executable.path"]).read_bytes()
        self.assertEqual(opened["audit.command.executable_sha256"], "sha256:" + hashlib.sha256(binary).hexdigest())

    def test_python(self):
        for name, script in PYTHON.items():
            with self.subTest(name):
                self.provider.seen.clear()
                done = self.trail("run", "--session", name, "--", sys.executable, "-c", script, self.url, BODY, SECRET)
                self.check(name, done.stdout, self.RUN)

    def test_a_stream(self):
        script = """
import sys, openai
url, key = sys.argv[1:3]
client = openai.OpenAI(api_key=key, base_url=url.rsplit("/chat", 1)[0], max_retries=0, timeout=20)
stream = client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "?"}], stream=True)
print("".join(chunk.choices[0].delta.content for chunk in stream))"""
        done = self.trail("run", "--session", "stream", "--", sys.executable, "-c", script, self.url, SECRET)
        self.assertEqual(done.stdout, "four\n")
        response = next(e for e in self.events("stream") if e["kind"] == "llm.response")
        self.assertTrue(response["attributes"]["audit.response.complete"])
        recorded = self.trail("show", response["id"], "--payload", "response.body").stdout.encode()
        self.assertEqual(recorded, b"".join(EVENTS))

    def test_node(self):
        node = shutil.which("node") or shutil.which("nodejs")
        if not node:
            self.assertNotIn("CI", os.environ, "node is missing")
            self.skipTest("node is missing")
        done = self.trail("run", "--session", "node", "--", node, "-e", NODE, "--", self.url, BODY, SECRET)
        self.check("node", done.stdout, self.RUN)

    def test_another_host_is_passed_through_unseen(self):
        url = f"https://{OTHER}:{self.other.server_port}/v1/chat/completions"
        done = self.trail("run", "--session", "tunnel", "--", "curl", "-sS", "-d", BODY, "-H",
                          "content-type: application/json", url)
        self.assertEqual(json.loads(done.stdout)["id"], "chatcmpl-1")
        events = self.events("tunnel")
        self.assertEqual([e["kind"] for e in events],
                         ["agent.session.started", "network.tunnel_opened", "network.tunnel_closed", "agent.session.ended"])
        self.assertEqual(events[1]["attributes"]["server.address"], OTHER)
        self.assertGreater(events[2]["attributes"]["audit.tunnel.sent_bytes"], len(BODY))
        self.assertGreater(events[2]["attributes"]["audit.tunnel.received_bytes"], len(ANSWER))
        # Or it is refused.
        self.other.seen.clear()
        self.trail("run", "--refuse-others", "--session", "refused", "--", "curl", "-sS", url, code=56)
        self.assertEqual(self.other.seen, [])
        self.assertEqual([e["kind"] for e in self.events("refused")], ["agent.session.started", "agent.session.ended"])

    def test_a_client_that_does_not_trust_the_authority_sends_nothing(self):
        done = self.trail("run", "--session", "untrusting", "--", "curl", "-sS", "--cacert",
                          str(self.dir / "machine-ca.pem"), self.url, code=60)
        self.assertIn("does it trust the authority?", done.stderr)
        self.assertEqual(self.provider.seen, [])

    def test_serve_intercepts(self):
        process = subprocess.Popen([BINARY, "serve", "--intercept", "--listen", "127.0.0.1:0"], cwd=self.dir,
                                   env=self.environment, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if found := re.search(r"HTTPS_PROXY=(http://\S+)", line):
                proxy = found[1]
                break
        else:
            raise AssertionError("the gateway didn't start")
        certificate = self.dir / "shown.pem"
        certificate.write_text(self.trail("ca", "show").stdout)
        self.assertEqual(certificate.read_text(), (self.dir / "test-ca.pem").read_text())
        done = subprocess.run(["curl", "-sS", "-x", proxy, "--proxy-header", "x-audit-session: served", "--cacert",
                               certificate, "-H", f"authorization: Bearer {SECRET}", "-H",
                               "content-type: application/json", "-d", BODY, self.url],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.stderr.close()
        self.assertEqual(process.wait(30), 0, rest)
        self.check("served", done.stdout, ["llm.request", "llm.response"])

    def test_exit_codes(self):
        shell = ["--", "sh", "-c"]
        self.trail("run", "--session", "seven", *shell, "exit 7", code=7)
        self.assertEqual(self.events("seven")[-1]["attributes"]["process.exit.code"], 7)
        self.trail("run", "--session", "killed", *shell, "kill -KILL $$", code=137)
        closed = self.events("killed")[-1]
        self.assertEqual(closed["kind"], "agent.session.ended")
        self.assertEqual(closed["attributes"]["audit.command.signal"], 9)
        before = len(self.trail("log", "--json", "-n", "1000").stdout.splitlines())
        self.trail("run", "--", "there-is-no-such-program", code=127)
        self.trail("run", "--", "/etc/passwd", code=126)
        self.trail("run", code=125)
        self.trail("run", "--no-such-flag", "--", "true", code=125)
        self.trail("run", "--", "true", code=125, AUDIT_TRAIL_PASSPHRASE_FILE="/nonexistent")
        after = len(self.trail("log", "--json", "-n", "1000").stdout.splitlines())
        self.assertEqual(before, after, "something was recorded of what was not run")

    def test_signals_reach_the_command(self):
        script = "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
        process = subprocess.Popen([BINARY, "run", "--session", "signalled", "--", "sh", "-c", script], cwd=self.dir,
                                   env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.assertEqual(process.stdout.readline(), "ready\n")
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=60)[0], "got it\n")
        self.assertEqual(process.returncode, 3)
        self.assertEqual(self.events("signalled")[-1]["attributes"]["audit.reason"], "exited")

    def test_the_environment_is_the_commands_own(self):
        done = self.trail("run", "--session", "environment", "--", "env",
                          TRACEPARENT="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", NO_PROXY="internal.example")
        seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        self.assertEqual(seen["AUDIT_TRAIL_SESSION"], "environment")
        self.assertNotIn("AUDIT_TRAIL_PASSPHRASE_FILE", seen, "the command can open the key ring")
        self.assertTrue(seen["TRACEPARENT"].startswith("00-0af7651916cd43dd8448eb211c80319c-"))
        self.assertNotIn("b7ad6b7169203331", seen["TRACEPARENT"])
        self.assertTrue(seen["NO_PROXY"].startswith("internal.example,"))
        self.assertRegex(seen["OPENAI_BASE_URL"], r"^http://127\.0\.0\.1:\d+/openai/v1$")
        self.assertFalse(pathlib.Path(seen["SSL_CERT_FILE"]).exists(), "the certificates outlive the command")
        correlation = self.events("environment")[0]["correlation"]
        self.assertEqual(correlation["trace_id"], "0af7651916cd43dd8448eb211c80319c")
        self.assertIn(correlation["span_id"], seen["TRACEPARENT"])

    def test_a_base_url_that_is_set_leads_where_it_says(self):
        done = self.trail("run", "--no-intercept", "--session", "based", "--", sys.executable, "-c", """
import openai
client = openai.OpenAI(api_key="%s", max_retries=0, timeout=20)
print(client.chat.completions.create(model="gpt-x", messages=[]).choices[0].message.content)""" % SECRET,
                          OPENAI_BASE_URL=self.url.rsplit("/chat", 1)[0])
        self.assertEqual(done.stdout, "four\n")
        self.assertEqual(len(self.provider.seen), 1)
        request = self.events("based")[1]
        self.assertEqual(request["attributes"]["server.address"], HOST)
        self.assertEqual(request["attributes"]["audit.capture.point"], "reverse_proxy")


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=1)
    result = program.result
    # One test can fail in several of its cases.
    bad = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{max(0, result.testsRun - bad - len(result.skipped))} passed, {bad} failed, {len(result.skipped)} skipped")
    sys.exit(bool(bad))
