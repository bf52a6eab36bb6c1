"""`edge-eds serve` as clients see it: the openai client and plain HTTP, against a server in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from command_line import assert_one_line, edge_eds
from openai import AsyncOpenAI, OpenAI
from runtime_examples import STEERED_LAYERS
from served import Served, served
from steered_model import steered_model

from edge_eds import EdgeLlama
from edge_eds.energy.engines import make_engine
from edge_eds.runtime.chat_prompt import render_chat

NAME = "tiny"
HI: list[Any] = [{"role": "user", "content": "hi there"}]
PATIENT = {"max_retries": 0, "timeout": 30.0}
SESSION: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
LONG = 100_000  # tokens: more than any test waits for


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    limits = ("--parallel", 2, "--queue", 8, "--ctx", 30_000, "--max-tokens", 29_000)
    with served(folder, model, *limits) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Served]:
    """One answer at a time, none that waits, a key, a page that may ask, and little time."""
    folder = tmp_path_factory.mktemp("guarded")
    limits = ("--queue", 0, "--timeout", 1, "--ctx", 30_000, "--max-tokens", 29_000, "--max-body", 20_000)
    with served(folder, model, *limits, "--api-key", "secret", "--cors", "https://page.example") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[OpenAI]:
    with closing(OpenAI(base_url=f"{server.url}/v1", api_key="any", **PATIENT)) as client:
        yield client


@pytest.fixture
def key_client(guarded: Served) -> Iterator[OpenAI]:
    with closing(OpenAI(base_url=f"{guarded.url}/v1", api_key="secret", **PATIENT)) as client:
        yield client


def ask(client: OpenAI, model: str = NAME, **settings: Any) -> Any:
    return client.chat.completions.create(model=model, messages=HI, **{"max_tokens": 8, **settings})


def text(answer: Any) -> str:
    return answer.choices[0].message.content


# -- chat ---------------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_the_library(client: OpenAI, model: Path) -> None:
    """Byte for byte the tokens of an EdgeLlama, steered and plain."""
    for name, energy in ((NAME, "auto"), (f"{NAME}:plain", None)):
        found = ask(client, name, logprobs=True).choices[0].logprobs.content
        with closing(EdgeLlama(model, energy=energy, **SESSION)) as llm:
            prompt = llm.tokenize(b"<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n", special=True)
            tokens = [token for token, _ in zip(llm.generate(prompt, temp=0.0), range(8), strict=False)]
            expected = [list(llm.detokenize([token])) for token in tokens]
        assert [entry.bytes for entry in found] == expected


def test_a_document_has_what_clients_rely_on(client: OpenAI) -> None:
    answer = ask(client)
    assert answer.object == "chat.completion"
    assert answer.model == NAME
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_is_the_answer_in_pieces(client: OpenAI) -> None:
    ask(client)  # now as much of the prompt is in the cache for both, and they are the same to the last bit
    whole = ask(client, extra_body={"eds": {"trace": True}})
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, extra_body={"eds": {"trace": True}}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text(whole)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 8)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    traces = [chunk.eds for chunk in chunks if chunk.model_extra and "eds" in chunk.model_extra]
    assert traces == [whole.eds]


def test_a_stream_without_usage_has_none(client: OpenAI) -> None:
    assert all(chunk.choices and chunk.usage is None for chunk in ask(client, stream=True))


def test_the_asynchronous_client(server: Served, client: OpenAI) -> None:
    """Several at a time, streamed and not, each with its own settings: as they are one by one."""
    settings = [
        {"model": model, "seed": seed, "temperature": 1.5, "top_p": 1.0, "stream": stream}
        for model, seed, stream in ((NAME, 1, False), (f"{NAME}:plain", 2, True), (NAME, 3, True), (NAME, 4, False))
    ]

    async def all_at_once() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", **PATIENT) as client:

            async def one(wish: dict[str, Any]) -> str:
                answer = await client.chat.completions.create(messages=HI, max_tokens=12, **wish)
                if not wish["stream"]:
                    return text(answer)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])

            return list(await asyncio.gather(*map(one, settings)))

    alone = [text(ask(client, max_tokens=12, **{**wish, "stream": False})) for wish in settings]
    assert asyncio.run(all_at_once()) == alone
    assert len(set(alone)) == len(alone)


def test_strength_is_set_per_request_and_by_name(client: OpenAI) -> None:
    def at(strength: float, model: str = NAME) -> str:
        return text(ask(client, model, extra_body={"eds": {"strength": strength}}))

    plain = text(ask(client, f"{NAME}:plain"))
    assert at(0.0) == plain == at(0.0, f"{NAME}:plain")
    assert at(1.0) == text(ask(client)) != plain


def test_the_trace_says_what_run_says(client: OpenAI, model: Path) -> None:
    eds = ask(client, extra_body={"eds": {"trace": True}}).eds
    ran = edge_eds("run", model, "-p", "hi there", "--max-tokens", 8, "--threads", 1, "--json")
    expected = json.loads(ran.stdout)["steering"]
    for name, value in expected.items():
        assert eds[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)
    assert eds["strength"] == 1.0
    assert [token["offset"] for token in eds["tokens"]] == [0, 1]
    assert eds["tokens"][0]["text"] is None
    for token in eds["tokens"]:
        assert token["touched"]
        assert token["energy_after"] < token["energy_before"]
        assert [layer["layer"] for layer in token["layers"]] == [2, 3, 4]
        assert {layer["head"] for layer in token["layers"]} == {"fr"}
    assert ask(client, f"{NAME}:plain", extra_body={"eds": {"trace": True}}).eds["tokens"] == []
    assert "eds" not in ask(client).model_extra


def test_stop_sequences_end_the_answer_before_them(client: OpenAI) -> None:
    whole = text(ask(client, max_tokens=20))
    middle = whole[5:7]
    for stream in (False, True):
        answer = ask(client, max_tokens=20, stop=[middle, "never said"], stream=stream)
        chunks = list(answer) if stream else []
        found = "".join(c.choices[0].delta.content or "" for c in chunks) if stream else text(answer)
        assert found == whole[: whole.index(middle)]
        assert (chunks[-1] if stream else answer).choices[0].finish_reason == "stop"


def test_log_probabilities_have_the_likeliest_tokens_beside_them(client: OpenAI) -> None:
    content = ask(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 8
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs) <= 0  # greedy
    streamed = [
        entry
        for chunk in ask(client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]


def test_an_answer_fits_the_schema(client: OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["ok", "kind"],
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    answer = ask(client, response_format=form, max_tokens=60, temperature=1.0, seed=3)
    found = json.loads(text(answer))
    assert isinstance(found["ok"], bool)
    assert found["kind"] in ("a", "b")
    assert answer.choices[0].finish_reason == "stop"


def test_json_object_begins_json(client: OpenAI) -> None:
    assert text(ask(client, response_format={"type": "json_object"}, max_tokens=2)).lstrip().startswith("{")


def test_a_tool_that_is_named_is_called(client: OpenAI) -> None:
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool: Any = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    choice: Any = {"type": "function", "function": {"name": "light"}}
    answer = ask(client, tools=[tool], tool_choice=choice, max_tokens=40)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "light"
    assert isinstance(json.loads(call.function.arguments)["on"], bool)
    chunks = list(ask(client, tools=[tool], tool_choice="required", max_tokens=40, stream=True))
    streamed = [c.choices[0].delta.tool_calls[0].function.arguments for c in chunks if c.choices[0].delta.tool_calls]
    assert "".join(streamed) == call.function.arguments
    back: Any = [*HI, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "done"}]
    assert client.chat.completions.create(model=NAME, messages=back, tools=[tool], max_tokens=2).choices


def test_a_call_that_comes_in_pieces_is_whole_when_they_are_joined(client: OpenAI) -> None:
    """By the openai client's own helper, which joins every text that comes twice."""
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool: Any = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    wish: dict[str, Any] = {"model": NAME, "messages": HI, "tools": [tool], "tool_choice": "required"}
    (whole,) = client.chat.completions.create(**wish, max_tokens=40).choices[0].message.tool_calls or ()
    with client.chat.completions.stream(**wish, max_tokens=40) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls or ()
    assert (call.type, call.function.name) == ("function", "light")
    assert call.function.arguments == whole.function.arguments
    assert call.id.count("light") == 1
    assert message.function_call is None


def test_a_format_that_chooses_among_tools_streams_what_it_answers(tmp_path: Path, model: Path) -> None:
    """In one piece, since llama-cpp-python's handler cannot do it in several: a call, or a text."""
    parameters = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tool: Any = {"type": "function", "function": {"name": "light", "parameters": parameters}}
    with (
        served(tmp_path, model, "--chat-format", "chatml-function-calling") as server,
        closing(OpenAI(base_url=f"{server.url}/v1", api_key="any", **PATIENT)) as client,
    ):
        for name, question in ((NAME, "hi there"), (f"{NAME}:plain", "000")):
            messages: Any = [{"role": "user", "content": question}]
            wish: dict[str, Any] = {"model": name, "messages": messages, "tools": [tool], "max_tokens": 40}
            client.chat.completions.create(**wish)  # now as much of the prompt is in the cache for both
            whole = client.chat.completions.create(**wish).choices[0]
            with client.chat.completions.stream(**wish) as stream:
                streamed = stream.get_final_completion().choices[0]
            assert (streamed.finish_reason, streamed.message.content) == (whole.finish_reason, whole.message.content)
            told = [[call.function.name for call in m.tool_calls or ()] for m in (streamed.message, whole.message)]
            assert told[0] == told[1]
        assert "Traceback" not in server.log


def test_a_call_that_is_cut_is_not_called_complete(client: OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "light"}}
    wish: dict[str, Any] = {"tools": [tool], "tool_choice": "required", "max_tokens": 1}
    assert ask(client, **wish).choices[0].finish_reason == "length"
    assert list(ask(client, **wish, stream=True))[-1].choices[0].finish_reason == "length"


def test_content_may_come_in_parts_and_developers_may_speak(client: OpenAI) -> None:
    parts: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "hi "}, {"type": "text", "text": "there"}]},
    ]
    joined: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi there"}]
    found = [client.chat.completions.create(model=NAME, messages=m, max_tokens=8) for m in (parts, joined)]
    assert text(found[0]) == text(found[1])
    assert found[0].usage.prompt_tokens == found[1].usage.prompt_tokens


def test_a_conversation_that_goes_on_uses_what_is_there(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "a question that nobody asked before"}]
    first = client.chat.completions.create(model=f"{NAME}:plain", messages=messages, max_tokens=4)
    again = client.chat.completions.create(model=f"{NAME}:plain", messages=messages, max_tokens=4)
    assert again.usage.prompt_tokens_details.cached_tokens == first.usage.prompt_tokens - 1
    assert text(again) == text(first)


# -- the other addresses ------------------------------------------------------------------------------------


def test_completions(client: OpenAI) -> None:
    wish: dict[str, Any] = {"model": NAME, "prompt": "Once upon", "max_tokens": 6, "logprobs": 2}
    whole = client.completions.create(**wish)
    assert len(whole.choices[0].logprobs.tokens) == 6
    assert len(whole.choices[0].logprobs.top_logprobs[0]) == 2
    assert whole.choices[0].logprobs.text_offset[0] == 0
    chunks = list(client.completions.create(**wish, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.tokens] == (
        whole.choices[0].logprobs.tokens
    )
    assert client.completions.create(model=NAME, prompt=[[70, 71, 72]], max_tokens=1).usage.prompt_tokens == 3


def test_models_are_two_names_of_one(client: OpenAI) -> None:
    assert [entry.id for entry in client.models.list()] == [NAME, f"{NAME}:plain"]
    assert client.models.retrieve(f"{NAME}:plain").owned_by == "edge-eds"


def test_embeddings_in_both_encodings(client: OpenAI, server: Served) -> None:
    both = client.embeddings.create(model=NAME, input=["one text", "another"])  # the client asks for base64
    again = client.embeddings.create(model=NAME, input="one text", encoding_format="float")
    assert both.data[0].embedding == pytest.approx(again.data[0].embedding, abs=1e-6)
    assert both.data[0].embedding != pytest.approx(both.data[1].embedding, abs=1e-3)
    assert sum(x * x for x in both.data[1].embedding) == pytest.approx(1, abs=1e-4)
    raw = server.http.post("/v1/embeddings", json={"input": "one text", "encoding_format": "base64"}).json()
    values = base64.b64decode(raw["data"][0]["embedding"])
    assert struct.unpack(f"<{len(values) // 4}f", values) == pytest.approx(again.data[0].embedding, abs=1e-6)


def test_energy_says_before_an_answer_what_its_trace_says_after(client: OpenAI, server: Served) -> None:
    found = server.http.post("/v1/eds/energy", json={"messages": HI}).json()
    eds = ask(client, extra_body={"eds": {"trace": True}}).eds
    assert (found["gate"], found["head"], found["would_be_touched"]) == ("benign", "fr", True)
    assert found["gate_score"] == pytest.approx(eds["gate_score"], abs=1e-3)
    energies = {layer["layer"]: layer["energies"] for layer in found["layers"]}
    first = eds["tokens"][0]["layers"][0]  # those after it read a state that this one has moved
    assert energies[first["layer"]]["fr"] == pytest.approx(first["energy_before"], abs=1e-3)


def test_energy_reads_an_answer_token_by_token(server: Served, model: Path) -> None:
    """Token by token what the energies say of the states that a session captures, over more than one window."""
    answer = "naïve 🙂 words, " * 40
    found = server.http.post("/v1/eds/energy", json={"messages": HI, "answer": answer}).json()
    alone = server.http.post("/v1/eds/energy", json={"messages": HI}).json()
    assert "tokens" not in alone and found["gate_score"] == pytest.approx(alone["gate_score"], abs=1e-2)
    assert "".join(token["text"] for token in found["tokens"]) == answer
    assert [token["offset"] for token in found["tokens"]] == list(range(1, len(found["tokens"]) + 1))
    with closing(EdgeLlama(model, **{**SESSION, "n_ctx": 1500})) as llm:
        tokens = [*render_chat(llm, HI), *llm.tokenize(answer.encode(), add_bos=False)]
        n_new = len(found["tokens"])
        assert n_new > 256
        states = llm.capture(tokens, STEERED_LAYERS)
        engine = make_engine(llm.energy_file)
        for il in STEERED_LAYERS:
            for head in ("fr", "jb"):
                read = [of["energies"][head] for t in found["tokens"] for of in t["layers"] if of["layer"] == il]
                assert read == pytest.approx(engine.energy(il, head, states[il][-n_new:]), abs=0.02)


def test_compare_gives_the_plain_and_the_steered_answer(client: OpenAI, server: Served) -> None:
    wish = {"messages": HI, "max_tokens": 8, "temperature": 1.0, "seed": 5, "eds": {"strength": 0.7, "trace": True}}
    found = server.http.post("/v1/eds/compare", json=wish).json()
    plain = ask(client, f"{NAME}:plain", temperature=1.0, seed=5)
    steered = ask(client, temperature=1.0, seed=5, extra_body={"eds": {"strength": 0.7}})
    assert found["plain"]["choices"][0]["message"]["content"] == text(plain)
    assert found["steered"]["choices"][0]["message"]["content"] == text(steered)
    assert (found["plain"]["eds"]["touched_tokens"], found["steered"]["eds"]["touched_tokens"]) == (0, 2)


def test_health_page_and_metrics(server: Served) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    page = server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    before = server.metric("edge_eds_tokens_total", kind="completion")
    server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 5}).raise_for_status()
    assert server.metric("edge_eds_tokens_total", kind="completion") == before + 5
    assert server.metric("edge_eds_running") == 0


# -- clients that go away, limits, shutdown -----------------------------------------------------------------


def test_a_client_that_goes_away_stops_its_answer(server: Served, client: OpenAI) -> None:
    cancelled = server.metric("edge_eds_answers_total", end="cancelled")
    stream = ask(client, max_tokens=LONG, stream=True)
    next(iter(stream))
    stream.close()
    server.wait_for("edge_eds_answers_total", cancelled + 1, end="cancelled")
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": LONG}, timeout=0.3)
    server.wait_for("edge_eds_answers_total", cancelled + 2, end="cancelled")
    assert server.metric("edge_eds_running") == 0
    assert text(ask(client))


def test_who_waits_while_others_are_answered_is_answered_too(server: Served, client: OpenAI) -> None:
    """Two slots are taken, more wait; one that goes away while it waits leaves the queue."""
    streams = [ask(client, max_tokens=LONG, stream=True) for _ in range(2)]
    for stream in streams:
        next(iter(stream))
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 3}, timeout=0.3)
    waiting = ask(client, max_tokens=3, stream=True)
    server.wait_for("edge_eds_waiting", 1)
    for stream in streams:
        stream.close()
    assert len(list(waiting)) >= 2
    assert server.metric("edge_eds_waiting") == 0


def test_a_full_queue_is_503_with_a_time_to_come_back(guarded: Served, key_client: OpenAI) -> None:
    stream = ask(key_client, max_tokens=LONG, stream=True)
    next(iter(stream))
    with pytest.raises(openai.InternalServerError) as caught:
        ask(key_client)
    stream.close()
    assert caught.value.status_code == 503
    assert caught.value.body["code"] == "queue_full"  # type: ignore[index]
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_an_answer_that_takes_too_long_is_504_and_not_asked_for_again(guarded: Served, key_client: OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        ask(key_client.with_options(max_retries=3), max_tokens=LONG)
    assert caught.value.status_code == 504
    guarded.last_lines(1, " 504 ")
    assert guarded.log.count(" 504 ") == 1
    with pytest.raises(openai.APIError, match="longer than the server's limit"):
        list(ask(key_client, max_tokens=LONG, stream=True))


def test_without_the_key_nothing_but_health_and_the_page(guarded: Served) -> None:
    for path in ("/v1/models", "/metrics", "/v1/nothing"):
        assert guarded.http.get(path).status_code == 401
    for path in ("/health", "/"):
        assert guarded.http.get(path).status_code == 200
    for key in ("-", "secre", "secrets", "Secret", "sécret"):
        headers = {"Authorization": f"Bearer {key}".encode()}
        answer = guarded.http.get("/v1/models", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    wrong = OpenAI(base_url=f"{guarded.url}/v1", api_key="no")
    with closing(wrong), pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    assert "secret" not in guarded.log


def test_a_server_of_the_network_without_a_key_says_so(tmp_path: Path, model: Path, server: Served) -> None:
    """Also where the variable that was to hold the key is empty, which is as if it was not there."""
    with served(tmp_path, model, "--host", "0.0.0.0", before="import os; os.environ['EDGE_EDS_API_KEY'] = ''") as open_:
        assert "no --api-key" in open_.log
    assert "--api-key" not in server.log


def test_pages_of_other_origins_are_refused_unless_named(server: Served, guarded: Served) -> None:
    page, key = {"Origin": "https://page.example"}, {"Authorization": "Bearer secret"}
    for origin in ("https://page.example", "null", "http://[", "", f"https://{server.url.removeprefix('http://')}.x"):
        refused = server.http.get("/v1/models", headers={"Origin": origin})
        assert refused.status_code == 403
        # what it says to do is what can be done: `null` is every page's, and no origin that can be named
        assert ("--cors" in refused.json()["error"]["message"]) == (origin.startswith("https://"))
    allowed = guarded.http.get("/v1/models", headers={**page, **key})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"
    other = guarded.http.get("/v1/models", headers={"Origin": "https://other.example", **key})
    assert (other.status_code, "access-control-allow-origin" in other.headers) == (403, False)
    ask_first = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert guarded.http.options("/v1/chat/completions", headers=ask_first).status_code == 200
    own = {"Origin": server.url}
    assert server.http.get("/v1/models", headers=own).status_code == 200


def test_a_name_that_was_made_to_point_here_is_refused(server: Served) -> None:
    others = ("evil.example", "evil.example:80", "localhost.evil.example", "[::2]", "[::1", "]", "", "a b", "a@b")
    for host in others:
        assert server.http.get("/v1/models", headers={"Host": host}).status_code in (400, 403)
    for host in ("localhost:99", "127.0.0.1", "[::1]:99"):
        assert server.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_sigterm_finishes_what_runs_and_refuses_what_waits(tmp_path: Path, model: Path) -> None:
    limits = ("--ctx", 30_000, "--max-tokens", 900)
    with served(tmp_path, model, *limits) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="any", **PATIENT)
        running = ask(client, max_tokens=900, stream=True, stream_options={"include_usage": True})
        next(iter(running))
        waiting = ask(client, stream=True)
        server.wait_for("edge_eds_waiting", 1)
        server.program.terminate()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(waiting)
        chunks = list(running)
        assert (chunks[-2].choices[0].finish_reason, chunks[-1].usage.completion_tokens) == ("length", 900)
        assert server.program.wait(10) == 0
        assert not server.port_file.exists()
        with pytest.raises(httpx.ConnectError):
            server.http.get("/health")
        client.close()
        assert "Traceback" not in server.log


def test_ctrl_c_waits_and_a_second_one_does_not(tmp_path: Path, model: Path) -> None:
    with served(tmp_path, model, "--ctx", 60_000, "--max-tokens", 50_000) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="any", **PATIENT)
        stream = ask(client, max_tokens=50_000, stream=True)
        next(iter(stream))
        server.program.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            server.program.wait(0.5)
        server.program.send_signal(signal.SIGINT)
        assert server.program.wait(10) == 130
        stream.close()
        client.close()
        assert "Traceback" not in server.log


@pytest.mark.slow
def test_a_client_that_reads_nothing_holds_up_nobody(tmp_path: Path, model: Path) -> None:
    """Neither the next request, whose place it has, nor the end of the server."""
    impatient = "from edge_eds.apps.server import app; app._SEND_SECONDS = 1.0"
    limits = ("--queue", 0, "--ctx", 60_000, "--max-tokens", 50_000)
    wish = {"messages": HI, "max_tokens": 50_000, "stream": True, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(wish).encode()
    with served(tmp_path, model, *limits, before=impatient) as server, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        stalled.sendall(head.encode() + body)
        server.wait_for("edge_eds_answers_total", 1, seconds=60, end="cancelled")
        assert server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 1}).status_code == 200
        assert "has read nothing" in server.log
        assert server.stop() == 0


def test_a_model_file_that_vanishes_is_not_missed(tmp_path: Path) -> None:
    gguf = steered_model(tmp_path)
    with served(tmp_path, gguf) as server:
        gguf.unlink()
        answer = server.http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 3}, timeout=30)
        assert answer.status_code == 200
        assert server.stop() == 0
    outcome = edge_eds("serve", gguf, "--port", 0)
    assert_one_line(outcome, ("tiny.gguf",))


def test_a_port_in_use_is_one_line_before_the_model_is_loaded(server: Served, model: Path) -> None:
    port = server.url.rpartition(":")[2]
    assert_one_line(edge_eds("serve", model, "--port", port), (port, "--port 0"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--host", "no.such.host.invalid"), ("--host",)),
        (("--host", "203.0.113.7", "--port", 0), ("203.0.113.7",)),
        (("--port", 70_000), ("--port", "65535")),
        (("--parallel", 0), ("--parallel",)),
        (("--timeout", "nan"), ("--timeout",)),
        (("--api-key", ""), ("--api-key",)),
        (("--alias", "a:plain"), ("--alias",)),
        (("--cors", "page.example"), ("--cors", "https://")),
        (("--cors", "http://["), ("--cors", "https://")),
        (("--port-file", "/no/such/folder/port"), ("/no/such/folder",)),
        (("--energy", "none", "--strength", 1), ("--strength",)),
    ],
)
def test_options_that_cannot_be_are_one_line(model: Path, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    assert_one_line(edge_eds("serve", model, *options), words)


def test_serving_imports_nothing_that_training_needs() -> None:
    script = """
import sys
import edge_eds.apps.serve, edge_eds.apps.server.running
print([name for name in ("torch", "optuna", "sklearn", "onnxruntime", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_langchain(client: OpenAI, server: Served) -> None:
    from langchain_openai import ChatOpenAI

    def chat(**settings: Any) -> Any:
        return ChatOpenAI(
            base_url=f"{server.url}/v1", api_key="any", model=NAME, temperature=0, max_retries=0, **settings
        )

    extra = {"eds": {"strength": 0.5}}
    steered = chat(max_tokens=8, extra_body=extra)
    expected = text(ask(client, extra_body=extra))
    assert steered.invoke("hi there").content == expected
    chunks = list(steered.stream("hi there", stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == expected
    assert [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata] == [8]
    assert [answer.content for answer in steered.batch(["hi there"] * 3)] == [expected] * 3

    schema = {"title": "light", "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    for method in ("json_schema", "function_calling"):
        assert chat(max_tokens=60).with_structured_output(schema, method=method).invoke("hi")["on"] in (True, False)
    caller = chat(max_tokens=40).bind_tools([schema], tool_choice="light")
    (whole,) = caller.invoke("hi").tool_calls
    joined = functools.reduce(lambda a, b: a + b, caller.stream("hi"))
    (call,) = joined.tool_calls
    assert (call["name"], call["args"]) == (whole["name"], whole["args"])
    with pytest.raises(openai.BadRequestError, match="strength"):
        chat(extra_body={"eds": {"strength": 1e308}}).invoke("hi")
