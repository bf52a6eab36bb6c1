"""What `edge-eds serve` makes of requests that cannot be used: the status and the error object that OpenAI's clients
expect, one line in the log, and the next request is answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI
from served import Served, served
from steered_model import steered_model
from tiny_gguf import tiny_gguf

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ENERGY, COMPARE = "/v1/eds/energy", "/v1/eds/compare"
HI = [{"role": "user", "content": "hi"}]
N_CTX, MAX_BODY = 512, 2_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = steered_model(tmp_path_factory.mktemp("model"))
    limits = ("--ctx", N_CTX, "--max-body", MAX_BODY)
    with served(tmp_path_factory.mktemp("server"), model, *limits) as running:
        yield running


def check(server: Served, answer: httpx.Response, status: int, code: str | None, param: str | None = None) -> None:
    """The error, its line in the log, and that the server goes on."""
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["code"], error["param"]) == (code, param)
    shown = error["message"][:40].encode("unicode_escape").decode().replace("\\\\", "\\")
    before, line = server.last_lines(2, shown)
    assert f" {status} " in line
    assert before.startswith("20")  # the line before is one of another request
    assert server.http.post(CHAT, json={"messages": HI, "max_tokens": 1}).status_code == 200
    server.last_lines(1, f"POST {CHAT} 200")
    assert "Traceback" not in server.log


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HI, "max_tokens": 2, **fields}


BODIES = {
    "nothing": b"",
    "no-json": b"hello",
    "half": b'{"messages": [',
    "latin-1": b'{"messages": [{"role": "user", "content": "caf\xe9"}]}',
    "utf-8-cut": b'{"messages": [{"role": "user", "content": "\xe2\x82"}]}',
    "lone-surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "nan": b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role": "user", "content": "hi"}], "temperature": Infinity}',
    "list": b"[1, 2]",
    "null": b"null",
    "text": b'"hi"',
    "deep": b"[" * 100_000,
    "deep-object": b'{"a":' * 100_000,
    "two": b"{} {}",
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_json_object(server: Served, body: bytes) -> None:
    for path in (CHAT, TEXT, EMBED, ENERGY, COMPARE):
        check(server, server.http.post(path, content=body), 400, "invalid_json")


FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown": ({"foo": 1}, "unknown_parameter", "foo"),
    "functions": ({"functions": []}, "unknown_parameter", "functions"),
    "no-messages": ({"messages": None}, "invalid_type", "messages"),
    "empty-messages": ({"messages": []}, "invalid_value", "messages"),
    "messages-text": ({"messages": "hi"}, "invalid_type", "messages"),
    "message-number": ({"messages": [1]}, "invalid_type", "messages.0"),
    "role": ({"messages": [{"role": "king", "content": "hi"}]}, "invalid_value", "messages.0.role"),
    "no-role": ({"messages": [{"content": "hi"}]}, "missing_required_parameter", "messages.0.role"),
    "content": ({"messages": [{"role": "user", "content": 5}]}, "invalid_type", "messages.0.content"),
    "message-field": ({"messages": [{**HI[0], "colour": "red"}]}, "unknown_parameter", "messages.0.colour"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "invalid_value",
        "messages.0.content",
    ),
    "tokens-negative": ({"max_tokens": -1}, "invalid_value", "max_tokens"),
    "tokens-0": ({"max_tokens": 0}, "invalid_value", "max_tokens"),
    "tokens-text": ({"max_tokens": "5"}, "invalid_type", "max_tokens"),
    "tokens-half": ({"max_tokens": 1.5}, "invalid_type", "max_tokens"),
    "tokens-true": ({"max_tokens": True}, "invalid_type", "max_tokens"),
    "completion-tokens": ({"max_completion_tokens": -5}, "invalid_value", "max_completion_tokens"),
    "temperature": ({"temperature": -0.1}, "invalid_value", "temperature"),
    "temperature-huge": ({"temperature": 1e308}, "invalid_value", "temperature"),
    "top-p": ({"top_p": 1.5}, "invalid_value", "top_p"),
    "top-k": ({"top_k": -1}, "invalid_value", "top_k"),
    "min-p": ({"min_p": 2}, "invalid_value", "min_p"),
    "penalty": ({"presence_penalty": 3}, "invalid_value", "presence_penalty"),
    "seed": ({"seed": -1}, "invalid_value", "seed"),
    "seed-huge": ({"seed": 2**64}, "invalid_value", "seed"),
    "n": ({"n": 2}, "invalid_value", "n"),
    "stop": ({"stop": [1]}, "invalid_type", "stop.0"),
    "stops": ({"stop": ["a"] * 17}, "invalid_value", "stop"),
    "stream": ({"stream": "yes"}, "invalid_type", "stream"),
    "top-logprobs": ({"top_logprobs": 2}, "invalid_value", "top_logprobs"),
    "top-logprobs-many": ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
    "bias-name": ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
    "bias-token": ({"logit_bias": {"99999999": 1}}, "invalid_value", "logit_bias"),
    "bias-size": ({"logit_bias": {"5": 101}}, "invalid_value", "logit_bias.5"),
    "model-kind": ({"model": 5}, "invalid_type", "model"),
    "format": ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    "no-schema": ({"response_format": {"type": "json_schema"}}, "invalid_value", "response_format.json_schema"),
    "tool-choice": ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    "tool-choice-kind": ({"tool_choice": {"type": "function"}}, "invalid_value", "tool_choice"),
    "tool-kind": ({"tools": [{"type": "web"}]}, "invalid_value", "tools.0.type"),
    "eds-kind": ({"eds": 1}, "invalid_type", "eds"),
    "eds-field": ({"eds": {"energy": "/etc/passwd"}}, "unknown_parameter", "eds.energy"),
    "eds-trace": ({"eds": {"trace": 1}}, "invalid_type", "eds.trace"),
    "strength-huge": ({"eds": {"strength": 1e308}}, "invalid_value", "eds.strength"),
    "strength-over": ({"eds": {"strength": 1001}}, "invalid_value", "eds.strength"),
    "strength-negative": ({"eds": {"strength": -1}}, "invalid_value", "eds.strength"),
    "strength-text": ({"eds": {"strength": "1"}}, "invalid_type", "eds.strength"),
    "plain-and-steered": ({"model": "tiny:plain", "eds": {"strength": 1}}, "invalid_value", "eds.strength"),
}


@pytest.mark.parametrize(("fields", "code", "param"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_cannot_be_used(server: Served, fields: dict[str, Any], code: str, param: str) -> None:
    body = json.dumps(chat(**fields))
    answer = server.http.post(CHAT, content=body)
    found = answer.json()["error"]["param"]
    assert found == param or (found or "").startswith(param), answer.json()
    check(server, answer, 400, answer.json()["error"]["code"], found)
    assert answer.json()["error"]["code"] == code


def test_an_error_says_what_was_expected_and_found_and_nothing_of_a_prompt(server: Served) -> None:
    said: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_tokens": "5"}, "expected an integer, found a string"),
        ({"max_tokens": -7}, "1, found -7"),
        ({"stream": 1}, "expected true or false, found 1"),
        ({"n": 3}, "expected 1, found 3"),
        ({"messages": {"a": 1}}, "expected an array, found an object"),
        ({"messages": "a word of mine"}, "expected an array, found a string"),
        ({"messages": [{"role": "king"}]}, 'or \'tool\', found "king"'),
    )
    for fields, words in said:
        message = server.http.post(CHAT, json=chat(**fields)).json()["error"]["message"]
        assert message.endswith(words), message
        assert "word of mine" not in message
    server.last_lines(1, 'found "king"')
    assert "word of mine" not in server.log


def schema(**keywords: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", **keywords}}}


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "boolean"}
    for _ in range(depth):
        node = {"type": "array", "items": node}
    return node


SCHEMAS: dict[str, dict[str, Any]] = {
    "billion": schema(items={"type": "boolean"}, minItems=10**9),
    "billion-as-number": schema(items={"type": "boolean"}, minItems=1e9),
    "letters": schema(items={"type": "string", "maxLength": 10**9}),
    "pattern": schema(items={"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "pattern-long": schema(items={"type": "string", "pattern": "^" + "a" * 500 + "$"}),
    "deep": schema(items=nested(150)),
    "away": schema(items={"$ref": "https://example.invalid/schema.json"}),
    "nowhere": schema(items={"$ref": "#/$defs/none"}),
    "no-kind": schema(items={"type": "colour"}),
    "enum": schema(items={"enum": 5}),
}


@pytest.mark.parametrize("form", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_cannot_be_followed(server: Served, form: dict[str, Any]) -> None:
    answer = server.http.post(CHAT, json=chat(response_format=form), timeout=10)
    check(server, answer, 400, "invalid_json_schema", "response_format.json_schema.schema")


def test_the_schema_of_a_tool_is_looked_at_too(server: Served) -> None:
    parameters = {"type": "array", "items": {"type": "boolean"}, "minItems": 10**9}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    answer = server.http.post(CHAT, json=chat(tools=tools, tool_choice="required"), timeout=10)
    check(server, answer, 400, "invalid_json_schema", "tools.0.function.parameters")


def test_the_fields_of_openai_that_change_nothing_here_are_taken(server: Served) -> None:
    harmless = {
        "user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True,
        "n": 1, "stop": None, "logit_bias": None, "tools": None, "response_format": {"type": "text"}, "stream": None,
        "stream_options": None, "modalities": ["text"], "reasoning_effort": "low",
    }  # fmt: skip
    assert server.http.post(CHAT, json=chat(**harmless)).status_code == 200


OTHERS: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "no-prompt": (TEXT, {}, "missing_required_parameter", "prompt"),
    "two-prompts": (TEXT, {"prompt": ["a", "b"]}, "invalid_value", "prompt"),
    "empty-prompt": (TEXT, {"prompt": []}, "invalid_value", "prompt"),
    "prompt-token": (TEXT, {"prompt": [10**6]}, "invalid_value", "prompt"),
    "prompt-token-negative": (TEXT, {"prompt": [-1]}, "invalid_value", "prompt"),
    "prompt-long": (TEXT, {"prompt": "a b " * 9000}, "context_length_exceeded", "prompt"),
    "prompt-true": (TEXT, {"prompt": [True]}, "invalid_value", "prompt"),
    "echo": (TEXT, {"prompt": "a", "echo": True}, "invalid_value", "echo"),
    "suffix": (TEXT, {"prompt": "a", "suffix": "b"}, "invalid_value", "suffix"),
    "best-of": (TEXT, {"prompt": "a", "best_of": 3}, "invalid_value", "best_of"),
    "messages": (TEXT, {"prompt": "a", "messages": HI}, "unknown_parameter", "messages"),
    "no-input": (EMBED, {}, "missing_required_parameter", "input"),
    "input-number": (EMBED, {"input": 5}, "invalid_value", "input"),
    "input-nothing": (EMBED, {"input": []}, "invalid_value", "input"),
    "inputs": (EMBED, {"input": ["a"] * 300}, "invalid_value", "input"),
    "input-long": (EMBED, {"input": ["a", "a b " * 9000]}, "context_length_exceeded", "input"),
    "input-token": (EMBED, {"input": [10**6]}, "invalid_value", "input"),
    "input-token-negative": (EMBED, {"input": [-1]}, "invalid_value", "input"),
    "dimensions": (EMBED, {"input": "a", "dimensions": 5}, "invalid_value", "dimensions"),
    "encoding": (EMBED, {"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
    "energy-prompt": (ENERGY, {"prompt": "a"}, "missing_required_parameter", "messages"),
    "energy-answer": (ENERGY, {"messages": HI, "answer": 5}, "invalid_type", "answer"),
    "energy-long": (ENERGY, {"messages": HI, "answer": "a b " * 9000}, "context_length_exceeded", "messages"),
    "compare-stream": (COMPARE, chat(stream=True), "invalid_value", "stream"),
    "compare-0": (COMPARE, chat(eds={"strength": 0}), "invalid_value", "eds.strength"),
}


@pytest.mark.parametrize(("path", "body", "code", "param"), OTHERS.values(), ids=OTHERS)
def test_the_other_addresses(server: Served, path: str, body: dict[str, Any], code: str, param: str | None) -> None:
    check(server, server.http.post(path, json=body), 400, code, param)


BODIES_THAT_FIT: dict[str, dict[str, Any]] = {
    CHAT: chat(), COMPARE: chat(), TEXT: {"prompt": "a"}, EMBED: {"input": "a"}, ENERGY: {"messages": HI},
}  # fmt: skip


@pytest.mark.parametrize("path", BODIES_THAT_FIT)
def test_what_is_refused_at_one_address_is_refused_at_all(server: Served, path: str) -> None:
    generating = path in (CHAT, COMPARE, TEXT)
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({"foo": 1}, "unknown_parameter", "foo"),
        ({"model": ["tiny"]}, "invalid_type", "model"),
        *([({"max_tokens": -1}, "invalid_value", "max_tokens")] if generating else []),
        *([({"eds": {"strength": 1e308}}, "invalid_value", "eds.strength")] if generating else []),
    ]
    for fields, code, param in bad:
        check(server, server.http.post(path, json={**BODIES_THAT_FIT[path], **fields}), 400, code, param)


def test_an_address_that_is_no_utf_8(server: Served) -> None:
    for path, code in (("/v1/models/%ff%fe", "model_not_found"), ("/%c3%28", "unknown_url")):
        answer = server.http.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
        assert " 404 " in server.last_lines(1, answer.json()["error"]["message"][-20:])[0]
    assert server.http.post(CHAT, json=chat()).status_code == 200
    assert "Traceback" not in server.log


def test_an_unknown_model_is_404_everywhere(server: Served) -> None:
    for path, body in BODIES_THAT_FIT.items():
        for name in ("gpt-4o", "tiny:PLAIN", "", "../tiny.gguf", "\u202e\n" * 500):
            answer = server.http.post(path, json={**body, "model": name})
            check(server, answer, 404, "model_not_found", "model")
    answer = server.http.get("/v1/models/gpt-4o")
    check(server, answer, 404, "model_not_found", "model")


def test_an_address_or_a_method_that_there_is_not(server: Served) -> None:
    check(server, server.http.get("/v1/none"), 404, "unknown_url")
    check(server, server.http.get(CHAT), 405, "unknown_url")
    check(server, server.http.get("/static/../app.py"), 404, "unknown_url")
    check(server, server.http.get("/static/%2e%2e/app.py"), 404, "unknown_url")


def test_a_conversation_that_is_too_long_names_both_numbers(server: Served) -> None:
    long = [{"role": "user", "content": "word " * N_CTX}]
    many = [{"role": role, "content": "x"} for role in ("user", "assistant")] * 5000
    for messages in (long, many):
        for path in (CHAT, COMPARE, ENERGY):
            answer = server.http.post(path, json={"messages": messages})
            assert str(N_CTX) in answer.json()["error"]["message"]
            check(server, answer, 400, "context_length_exceeded", "messages")
    assert "10000 messages" in server.log


def test_a_body_that_is_too_large_is_413_however_it_comes(server: Served) -> None:
    huge = b'{"messages": "' + b"x" * (2 * MAX_BODY) + b'"}'
    for body in (huge, iter([huge[:100_000]] * 50)):  # with its length said before, and without
        check(server, server.http.post(CHAT, content=body), 413, "body_too_large")
    expecting = {"Expect": "100-continue"}  # as curl does: it need not be sent at all
    check(server, server.http.post(CHAT, content=huge, headers=expecting), 413, "body_too_large")


def test_noise_on_the_wire_is_no_story(server: Served) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: nine\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{",
    ):  # fmt: skip
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)
    assert server.http.post(CHAT, json=chat()).status_code == 200
    assert "Traceback" not in server.log


def test_a_log_line_stays_a_line(server: Served) -> None:
    server.http.post(CHAT, json=chat(**{"a\nb\x1b[31m": 1}))
    server.last_lines(1, "a\\nb\\x1b[31m")
    assert "\x1b" not in server.log


def test_the_client_of_openai_raises_what_it_names(server: Served) -> None:
    with closing(OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="gpt-4o", messages=HI)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="tiny", messages=HI, extra_body={"eds": {"strength": 1e308}}, stream=True  # type: ignore[arg-type]
            )
        assert (caught.value.param, caught.value.code) == ("eds.strength", "invalid_value")


def test_a_template_that_refuses_says_why(tmp_path: Path) -> None:
    template = "{{ raise_exception('no king here') if messages[0].role == 'system' else messages[0].nothing.at.all }}"
    gguf = tiny_gguf("llama", tmp_path / "tiny.gguf", chat_template=template)
    with served(tmp_path, gguf, "--energy", "none") as server:
        for role, words in (("system", "no king here"), ("user", "template")):
            answer = server.http.post(CHAT, json={"messages": [{"role": role, "content": "hi"}], "stream": True})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
            assert words in answer.json()["error"]["message"]
        steered = server.http.post(CHAT, json=chat(eds={"strength": 1}))
        assert (steered.status_code, steered.json()["error"]["param"]) == (400, "eds.strength")
        assert server.http.post(ENERGY, json={"messages": HI}).status_code == 400
        assert [entry["id"] for entry in server.http.get("/v1/models").json()["data"]] == ["tiny"]
        assert server.http.post(TEXT, json={"prompt": "hi", "max_tokens": 1}).status_code == 200
