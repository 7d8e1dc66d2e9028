#!/usr/bin/env python3
"""The providers' own Python packages as oracles: what they make of a recorded answer must agree with our view of it.

A small server answers with the recorded bytes; the package parses them, and text, tool calls, finish reasons and usage are
compared with the view that `audit-capture` computes from the same bytes. Needs AUDIT_FIXTURES; without it says that it
skips. AUDIT_EXCHANGE_BIN names the example program `exchange` (default: beside AUDIT_TRAIL_BIN, else in target/debug).
"""
import base64
import glob
import http.server
import json
import logging
import os
import pathlib
import subprocess
import sys
import threading
import unittest
import warnings

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = os.environ.get("AUDIT_FIXTURES")
DEBUG = pathlib.Path(os.environ.get("AUDIT_TRAIL_BIN", str(ROOT / "target/debug/audit-trail"))).parent
BINARY = os.environ.get("AUDIT_EXCHANGE_BIN", str(DEBUG / "examples/exchange"))

if FIXTURES:
    import anthropic
    import boto3
    import botocore.config
    import cohere
    import groq
    import ollama
    import openai
    from google import genai
    from google.genai import types as genai_types
    from mistralai.client import Mistral

SAY = [{"role": "user", "content": "x"}]


def recorded():
    found = []
    for path in sorted(glob.glob(f"{FIXTURES}/llm-traffic/exchanges/*/*.json")
                       + glob.glob(f"{FIXTURES}/llm-traffic/sessions/*.jsonl")):
        with open(path, encoding="utf-8") as f:
            found += [json.loads(line) for line in f] if path.endswith(".jsonl") else [json.load(f)]
    return found


class Server(http.server.BaseHTTPRequestHandler):
    """`/ID/…` is answered with the recorded bytes of that exchange."""
    protocol_version = "HTTP/1.1"
    answers = {}

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.answers[self.path.split("/")[1]]["response"]
        body = answer["body"].encode()
        if answer["body_encoding"] == "base64":
            body = base64.b64decode(answer["body"])
        self.send_response(answer["status"])
        for name, value in answer["headers"]:
            if name.lower() in ("content-type", "x-request-id"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def arguments(text):
    """Arguments as a value; none at all are no arguments."""
    if not isinstance(text, str):
        return text or {}
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return text


def plain(value):
    """Values of a package's own types as JSON has them."""
    return json.loads(json.dumps(value, default=str))


class Said:
    """What is compared."""

    def __init__(self):
        self.texts, self.calls, self.finish, self.usage = [], [], [], {}

    def call(self, name, given, id=None):
        self.calls.append((id or None, name, plain(arguments(given))))

    def seen(self):
        return {"text": "".join(t or "" for t in self.texts), "calls": self.calls,
                "finish": [str(f) for f in self.finish if f], "usage": self.usage}


def ours(view):
    said = Said()
    answered = view["response"]
    for at, message in enumerate(answered.get("messages", [])):
        for part in message["parts"]:
            if part["type"] == "text" and at == 0:
                said.texts.append(part["text"])
            if part["type"] == "tool_call" and not part.get("by_provider"):
                said.call(part.get("name"), part["arguments"], part.get("id"))
        said.finish.append(message.get("finish_reason"))
    usage = answered.get("usage") or {}
    said.usage = {k: usage[k] for k in ("input", "output", "cache_read", "reasoning") if usage.get(k)}
    return said.seen()


def counts(input, output, cache_read=None, reasoning=None, total=None, apart=False):
    """Input with what was cached, output with reasoning."""
    output, reasoning = output or 0, reasoning or 0
    if apart or (total and reasoning and (input or 0) + output + reasoning == total):
        output += reasoning
    found = {"input": input, "output": output, "cache_read": cache_read, "reasoning": reasoning}
    return {k: v for k, v in found.items() if v}


def at(value, *path):
    for name in path:
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
        if value is None:
            return None
    return value


def openai_usage(u):
    if not u:
        return {}
    return counts(u.prompt_tokens, at(u, "completion_tokens"),
                  at(u, "prompt_tokens_details", "cached_tokens") or at(u, "prompt_cache_hit_tokens")
                  or at(u, "cached_tokens"),
                  at(u, "completion_tokens_details", "reasoning_tokens"), u.total_tokens)


def chat_said(completion):
    """A completion object of OpenAI's form."""
    said = Said()
    for at_choice, choice in enumerate(completion.choices):
        if at_choice == 0:
            said.texts.append(getattr(choice.message, "content", None))
        for call in choice.message.tool_calls or []:
            said.call(call.function.name, call.function.arguments, call.id)
        said.finish.append(choice.finish_reason)
    said.usage = openai_usage(completion.usage)
    return said


def chunks_said(chunks):
    """Chunks of OpenAI's form, put together."""
    said, calls, finish, usage = Said(), {}, {}, None
    for chunk in chunks:
        usage = getattr(chunk, "usage", None) or at(chunk, "x_groq", "usage") or usage
        for choice in chunk.choices:
            finish[choice.index] = choice.finish_reason or finish.get(choice.index)
            if choice.index == 0:
                said.texts.append(choice.delta.content)
            for call in choice.delta.tool_calls or []:
                known = calls.setdefault((choice.index, call.index or 0), [None, None, ""])
                known[0] = call.id or known[0]
                known[1] = call.function.name or known[1]
                known[2] += call.function.arguments or ""
    for id, name, given in calls.values():
        said.call(name, given, id)
    said.finish = list(finish.values())
    said.usage = openai_usage(usage)
    return said


@unittest.skipUnless(FIXTURES, "AUDIT_FIXTURES is not set")
class Oracles(unittest.TestCase):
    maxDiff = 4000

    @classmethod
    def setUpClass(cls):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        cls.all = recorded()
        Server.answers = {d["id"]: d for d in cls.all}
        cls.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.base = f"http://127.0.0.1:{cls.server.server_port}"
        lines = "".join(json.dumps(d) + "\n" for d in cls.all)
        done = subprocess.run([BINARY], input=lines, capture_output=True, text=True, check=True)
        cls.views = {d["id"]: json.loads(line) for d, line in zip(cls.all, done.stdout.splitlines(), strict=True)}

    @classmethod
    def tearDownClass(cls):
        cls.server.shutdown()
        cls.server.server_close()

    def compare(self, count, choose, ask, ids=True):
        """Asks a package for every chosen answer; `count` says how many there are, so that none is left out unseen."""
        compared = 0
        for d in self.all:
            if d["response"]["status"] != 200 or not choose(d):
                continue
            with self.subTest(d["id"]):
                seen = ask(d, f"{self.base}/{d['id']}", d["streaming"]).seen()
                view = ours(self.views[d["id"]])
                if not ids:
                    view["calls"] = [(None, name, given) for _, name, given in view["calls"]]
                self.assertEqual(seen, view)
            compared += 1
        self.assertEqual(compared, count)

    # OpenAI

    def openai(self, base):
        return openai.OpenAI(api_key="k", base_url=base, max_retries=0)

    def chat(self, client, streaming):
        create = client.chat.completions.create
        if not streaming:
            return chat_said(create(model="m", messages=SAY))
        return chunks_said(create(model="m", messages=SAY, stream=True))

    def test_openai_chat(self):
        self.compare(OPENAI_CHAT, lambda d: d["provider"] == "openai" and d["api"] == "chat",
                     lambda d, base, streaming: self.chat(self.openai(base), streaming))

    def test_openai_accumulates_the_same(self):
        """The package's own way of putting a stream together."""
        def ask(d, base, _):
            with self.openai(base).chat.completions.stream(model="m", messages=SAY) as stream:
                try:
                    return chat_said(stream.get_final_completion())
                except openai.LengthFinishReasonError as e:
                    return chat_said(e.completion)
        self.compare(OPENAI_CHAT_STREAMS,
                     lambda d: d["provider"] == "openai" and d["api"] == "chat" and d["streaming"], ask)

    def test_openai_compatible_servers(self):
        names = ("anthropic", "avian", "deepseek", "google-gemini", "huggingface", "local-openai-compatible", "ollama",
                 "ollama-cloud", "openrouter", "perplexity", "together", "xai")
        self.compare(COMPATIBLE_CHAT, lambda d: d["provider"] in names and d["api"] == "chat",
                     lambda d, base, streaming: self.chat(self.openai(base), streaming))

    def test_azure_openai(self):
        def ask(d, base, streaming):
            client = openai.AzureOpenAI(api_key="k", azure_endpoint=base, api_version="2024-12-01", max_retries=0)
            return self.chat(client, streaming)
        self.compare(AZURE_CHAT, lambda d: d["provider"] == "azure-openai" and d["api"] == "chat", ask)

    def test_openai_responses(self):
        def ask(d, base, streaming):
            if streaming:
                response = None
                for event in self.openai(base).responses.create(model="m", input="x", stream=True):
                    response = getattr(event, "response", response)
            else:
                response = self.openai(base).responses.create(model="m", input="x")
            said = Said()
            said.texts.append(response.output_text)
            for item in response.output:
                if item.type == "function_call":
                    said.call(item.name, item.arguments, item.call_id)
            said.finish.append(at(response, "incomplete_details", "reason") or response.status)
            u = response.usage
            said.usage = counts(u.input_tokens, u.output_tokens, at(u, "input_tokens_details", "cached_tokens"),
                                at(u, "output_tokens_details", "reasoning_tokens"), u.total_tokens)
            return said
        self.compare(RESPONSES, lambda d: d["api"] == "responses", ask)

    def test_openai_completions(self):
        def ask(d, base, streaming):
            answer = self.openai(base).completions.create(model="m", prompt="x", stream=streaming)
            said, finish = Said(), {}
            for chunk in answer if streaming else [answer]:
                for choice in chunk.choices:
                    if choice.index in (0, None):
                        said.texts.append(choice.text)
                    finish[choice.index] = choice.finish_reason or finish.get(choice.index)
                if chunk.usage:
                    said.usage = openai_usage(chunk.usage)
            said.finish = list(finish.values())
            return said
        self.compare(COMPLETIONS, lambda d: d["api"] == "completions", ask)

    def test_openai_embeddings(self):
        def ask(d, base, _):
            said = Said()
            said.usage = openai_usage(self.openai(base).embeddings.create(model="m", input="x").usage)
            return said
        names = ("openai", "openrouter", "mistral", "local-openai-compatible")
        self.compare(EMBEDDINGS, lambda d: d["provider"] in names and d["api"] == "embeddings", ask)

    def test_openai_runs(self):
        def ask(d, base, _):
            said, usage = Said(), None
            stream = self.openai(base).beta.threads.runs.create(thread_id="t", assistant_id="a", stream=True)
            for event in stream:
                if event.event == "thread.message.completed":
                    said.texts += [part.text.value for part in event.data.content]
                if event.event == "thread.run.completed":
                    said.finish, usage = [event.data.status], event.data.usage
            said.usage = openai_usage(usage)
            return said
        self.compare(2, lambda d: d["api"] == "assistants" and d["streaming"], ask)

    # Groq

    def groq(self, base):
        return groq.Groq(api_key="k", base_url=base, max_retries=0)

    def fails(self, d):
        return "error" in self.views[d["id"]]["response"]

    def test_groq(self):
        self.compare(GROQ, lambda d: d["provider"] == "groq" and not self.fails(d),
                     lambda d, base, streaming: self.chat(self.groq(base), streaming))

    def test_groq_errors_within_a_stream(self):
        def ask(d, base, streaming):
            with self.assertRaises(groq.APIError) as raised:
                self.chat(self.groq(base), streaming)
            self.assertEqual(raised.exception.message, self.views[d["id"]]["response"]["error"]["message"])
            return Said()
        found = [d for d in self.all if d["provider"] == "groq" and self.fails(d)]
        self.assertEqual(len(found), 1)
        for d in found:
            ask(d, f"{self.base}/{d['id']}", d["streaming"])

    # Anthropic

    def test_anthropic_messages(self):
        def ask(d, base, streaming):
            client = anthropic.Anthropic(api_key="k", base_url=base, max_retries=0)
            asked = {"model": "m", "max_tokens": 1, "messages": SAY}
            if streaming:
                with client.messages.stream(**asked) as stream:
                    message = stream.get_final_message()
            else:
                message = client.messages.create(**asked)
            said = Said()
            for block in message.content:
                if block.type == "text":
                    said.texts.append(block.text)
                if block.type == "tool_use":
                    said.call(block.name, block.input, block.id)
            said.finish.append(message.stop_reason)
            u = message.usage
            cached = (u.cache_read_input_tokens or 0) + (u.cache_creation_input_tokens or 0)
            said.usage = counts(u.input_tokens + cached, u.output_tokens, u.cache_read_input_tokens,
                                at(u, "output_tokens_details", "thinking_tokens"))
            return said
        self.compare(MESSAGES, lambda d: d["api"] in ("messages", "messages-rawPredict"), ask)

    # Google

    def test_google_genai(self):
        def word(reason):
            # Some answers have the number of an enumeration, which the package has no name for.
            return getattr(reason, "value", reason)

        def ask(d, base, streaming):
            client = genai.Client(api_key="k", http_options=genai_types.HttpOptions(base_url=base))
            models = client.models
            answer = (models.generate_content_stream if streaming else models.generate_content)(model="m", contents="x")
            said, usage = Said(), None
            for chunk in answer if streaming else [answer]:
                usage = chunk.usage_metadata or usage
                for candidate in chunk.candidates or []:
                    for part in at(candidate, "content", "parts") or []:
                        if part.function_call:
                            said.call(part.function_call.name, part.function_call.args, part.function_call.id)
                        elif part.text and not part.thought:
                            said.texts.append(part.text)
                    if candidate.finish_reason:
                        said.finish.append(word(candidate.finish_reason))
            said.usage = counts(usage.prompt_token_count, usage.candidates_token_count, usage.cached_content_token_count,
                                usage.thoughts_token_count, apart=True)
            return said
        self.compare(GENERATE_CONTENT, lambda d: d["api"] in ("generateContent", "streamGenerateContent")
                     and d["stream_format"] != "json-array" and "enum-encoding" not in d["request"]["url"], ask)

    # Mistral

    def test_mistral(self):
        def ask(d, base, streaming):
            client = Mistral(api_key="k", server_url=base)
            if not streaming:
                answer = client.chat.complete(model="m", messages=SAY)
                choices = [(c, c.message) for c in answer.choices]
                usages = [answer.usage]
            else:
                chunks = [event.data for event in client.chat.stream(model="m", messages=SAY)]
                choices = [(c, c.delta) for chunk in chunks for c in chunk.choices]
                usages = [chunk.usage for chunk in chunks]
            said = Said()
            for choice, message in choices:
                content = message.content
                if isinstance(content, str) and choice.index == 0:
                    said.texts.append(content)
                elif isinstance(content, list):
                    said.texts += [part.text for part in content if part.type == "text"]
                for call in message.tool_calls or []:
                    said.call(call.function.name, call.function.arguments, call.id)
                said.finish.append(choice.finish_reason)
            usage = [u for u in usages if u and isinstance(u.prompt_tokens, int) and u.total_tokens][-1]
            said.usage = counts(usage.prompt_tokens, usage.completion_tokens,
                                at(usage.model_dump(), "prompt_tokens_details", "cached_tokens"))
            return said
        self.compare(MISTRAL, lambda d: d["provider"] == "mistral" and d["api"] == "chat", ask)

    # Cohere

    def test_cohere(self):
        def ask(d, base, streaming):
            client = cohere.ClientV2(api_key="k", base_url=base)
            said, usage = Said(), None
            if not streaming:
                answer = client.chat(model="m", messages=SAY)
                said.texts += [part.text for part in answer.message.content or [] if part.type == "text"]
                for call in answer.message.tool_calls or []:
                    said.call(call.function.name, call.function.arguments, call.id)
                said.finish.append(answer.finish_reason)
                usage = answer.usage
            else:
                calls = []
                for event in client.chat_stream(model="m", messages=SAY):
                    message = at(event, "delta", "message")
                    if event.type in ("content-start", "content-delta"):
                        said.texts.append(at(message, "content", "text"))
                    elif event.type == "tool-call-start":
                        call = message.tool_calls
                        calls.append([call.function.name, call.function.arguments or "", call.id])
                    elif event.type == "tool-call-delta":
                        calls[-1][1] += message.tool_calls.function.arguments
                    elif event.type == "message-end":
                        said.finish.append(event.delta.finish_reason)
                        usage = event.delta.usage
                for call in calls:
                    said.call(*call)
            tokens = usage.tokens
            said.usage = counts(int(tokens.input_tokens), int(tokens.output_tokens),
                                int(at(usage, "cached_tokens") or 0), int(at(tokens, "reasoning_tokens") or 0))
            return said
        self.compare(COHERE, lambda d: d["provider"] == "cohere" and d["api"] == "chat", ask)

    # Ollama

    def test_ollama(self):
        def ask(d, base, streaming):
            client = ollama.Client(host=base)
            if d["api"] == "ollama-chat":
                answer = client.chat(model="m", messages=SAY, stream=streaming)
            else:
                answer = client.generate(model="m", prompt="x", stream=streaming)
            said = Said()
            for piece in answer if streaming else [answer]:
                message = getattr(piece, "message", None)
                said.texts.append(message.content if message else piece.response)
                for call in (message and message.tool_calls) or []:
                    said.call(call.function.name, dict(call.function.arguments), at(call, "id"))
                said.finish.append(piece.done_reason)
                last = piece
            said.usage = counts(last.prompt_eval_count, last.eval_count)
            return said
        # The package drops the ids of calls.
        self.compare(OLLAMA, lambda d: d["api"] in ("ollama-chat", "ollama-generate"), ask, ids=False)

    # Bedrock

    def bedrock(self, base):
        return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=base, aws_access_key_id="k",
                            aws_secret_access_key="s", config=botocore.config.Config(retries={"max_attempts": 0}))

    def test_bedrock_converse(self):
        def ask(d, base, streaming):
            client = self.bedrock(base)
            asked = {"modelId": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]}
            said = Said()
            if not streaming:
                answer = client.converse(**asked)
                for block in answer["output"]["message"]["content"]:
                    said.texts.append(block.get("text"))
                    said.texts += [part["text"] for part in block.get("citationsContent", {}).get("content", [])]
                    if call := block.get("toolUse"):
                        said.call(call["name"], call["input"], call["toolUseId"])
                said.finish, usage = [answer["stopReason"]], answer["usage"]
            else:
                calls = {}
                for event in client.converse_stream(**asked)["stream"]:
                    for kind, body in event.items():
                        index = body.get("contentBlockIndex")
                        if kind == "contentBlockStart" and (call := body["start"].get("toolUse")):
                            if call.get("type") != "server_tool_use":
                                calls[index] = [call["name"], "", call["toolUseId"]]
                        elif kind == "contentBlockDelta":
                            said.texts.append(body["delta"].get("text"))
                            if index in calls:
                                calls[index][1] += body["delta"].get("toolUse", {}).get("input", "")
                        elif kind == "messageStop":
                            said.finish.append(body["stopReason"])
                        elif kind == "metadata":
                            usage = body["usage"]
                for call in calls.values():
                    said.call(*call)
            read = usage.get("cacheReadInputTokens", 0)
            said.usage = counts(usage["inputTokens"] + read + usage.get("cacheWriteInputTokens", 0),
                                usage["outputTokens"], read)
            return said
        self.compare(CONVERSE, lambda d: d["api"] in ("converse", "converse-stream"), ask)

    def test_bedrock_invoke_streams(self):
        """The package's reader of event streams; what is inside is the model's own format."""
        def ask(d, base, _):
            client, said = self.bedrock(base), Said()
            calls, usage = {}, {}
            for event in client.invoke_model_with_response_stream(modelId="m", body=b"{}")["body"]:
                item = json.loads(event["chunk"]["bytes"])
                said.texts.append(item.get("outputText") or at(item, "delta", "text")
                                  or at(item, "contentBlockDelta", "delta", "text"))
                said.finish.append(item.get("completionReason") or at(item, "messageStop", "stopReason")
                                   or at(item, "delta", "stop_reason"))
                if at(item, "content_block", "type") == "tool_use":
                    calls[item["index"]] = [item["content_block"]["name"], "", item["content_block"]["id"]]
                if at(item, "delta", "type") == "input_json_delta":
                    calls[item["index"]][1] += item["delta"]["partial_json"]
                usage.update(at(item, "message", "usage") or at(item, "usage") or at(item, "metadata", "usage") or {})
                if "outputText" in item:
                    usage = {"input_tokens": item["inputTextTokenCount"], "output_tokens": item["totalOutputTextTokenCount"]}
            for call in calls.values():
                said.call(*call)
            cached = usage.get("cache_read_input_tokens", 0) or 0
            said.usage = counts(
                int(usage.get("input_tokens") or usage["inputTokens"]) + cached + (usage.get("cache_creation_input_tokens") or 0),
                int(usage.get("output_tokens") or usage["outputTokens"]), cached)
            return said
        self.compare(5, lambda d: d["api"] == "invoke-stream", ask)


# How many recorded answers each package parses. Another number means that the fixtures have changed: count again.
OPENAI_CHAT = 70
OPENAI_CHAT_STREAMS = 24
COMPATIBLE_CHAT = 36
AZURE_CHAT = 11
RESPONSES = 51
COMPLETIONS = 4
EMBEDDINGS = 9
GROQ = 6
MESSAGES = 59
GENERATE_CONTENT = 44
MISTRAL = 11
COHERE = 11
OLLAMA = 9
CONVERSE = 15


if __name__ == "__main__":
    program = unittest.main(exit=False, verbosity=1)
    result = program.result
    # One test can fail in several of its cases.
    bad = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{max(0, result.testsRun - bad - len(result.skipped))} passed, {bad} failed, {len(result.skipped)} skipped")
    if FIXTURES and result.skipped:
        sys.exit("a skip fails where AUDIT_FIXTURES is set")
    sys.exit(bool(bad))
