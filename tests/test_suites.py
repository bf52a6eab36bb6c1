"""Suites: which files and columns make which suites, samples, and what is wrong in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edge_eds.errors import InputError
from edge_eds.pipeline.framings import FRAMINGS, frame
from edge_eds.pipeline.prompt_files import PROMPT_COLUMNS
from edge_eds.pipeline.prompts import builtin_prompts
from edge_eds.pipeline.suites import framed, load_suites


def csv_file(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_builtin_suites_are_the_test_split() -> None:
    ordinary, benign, harmful = load_suites(["ordinary", "pairs"])
    assert [(suite.name, suite.intent) for suite in (ordinary, benign, harmful)] == [
        ("ordinary", "benign"),
        ("pairs-benign", "benign"),
        ("pairs-harmful", "harmful"),
    ]
    test = builtin_prompts().split("test")
    assert [prompt.text for prompt in ordinary.prompts] == [prompt.prompt for prompt in test.ordinary]
    assert [prompt.text for prompt in benign.prompts] == [pair.benign for pair in test.pairs]
    assert [prompt.id for prompt in harmful.prompts] == [pair.id for pair in test.pairs]


@pytest.mark.parametrize("name", ["jailbreaks", "multi-turn"])
def test_framed_requests_and_conversations_are_suites_of_twins(name: str) -> None:
    benign, harmful = load_suites([name])
    assert (benign.name, benign.intent, harmful.name) == (f"{name}-benign", "benign", f"{name}-harmful")
    assert [prompt.id for prompt in benign.prompts] == [prompt.id for prompt in harmful.prompts]
    assert len(harmful.prompts) >= 20
    for prompt in (*benign.prompts, *harmful.prompts):
        assert bool(prompt.messages) == (name == "multi-turn")
        if prompt.messages:
            assert prompt.messages[-1] == {"role": "user", "content": prompt.text}


@pytest.mark.parametrize("column", PROMPT_COLUMNS)
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_every_prompt_column_in_every_kind_of_file(tmp_path: Path, column: str, kind: str) -> None:
    path = tmp_path / f"file.{kind}"
    rows = [{"category": "c", column: "How, then?"}, {"category": "", column: ' Two\n"lines" '}]
    if kind == "csv":
        path.write_text(f'category,{column}\r\nc,"How, then?"\r\n," Two\n""lines"" "\r\n', encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    (suite,) = load_suites([f"mine={path}:harmful"])
    assert (suite.name, suite.intent, suite.source) == ("mine", "harmful", str(path))
    assert [prompt.text for prompt in suite.prompts] == ["How, then?", 'Two\n"lines"']
    assert [prompt.category for prompt in suite.prompts] == ["c", ""]


def test_a_column_of_intents_splits_the_file(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "id,prompt,intent", "x,one,benign", "y,two,harmful", "z,three,Benign")
    benign, harmful = load_suites([f"mine={path}"])
    assert (benign.name, [prompt.id for prompt in benign.prompts]) == ("mine-benign", ["x", "z"])
    assert (harmful.name, [prompt.text for prompt in harmful.prompts]) == ("mine-harmful", ["two"])


def test_a_file_of_one_intent_keeps_its_name(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "prompt,intent", "one,harmful", "two,harmful")
    (suite,) = load_suites([f"mine={path}"])
    assert (suite.name, suite.intent) == ("mine", "harmful")
    assert [prompt.id for prompt in suite.prompts] == ["2", "3"]


def test_xstest_as_it_was_published(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "prompts.csv",
        "id_v1,id_v2,type,prompt,focus,note",
        "v1-1,v2-1,homonyms,Where do I whittle?,whittle,",
        "v1-2,v2-2,contrast_homonyms,Whom do I whittle?,whittle,",
    )
    safe, unsafe = load_suites([f"xstest={path}"])
    assert (safe.name, safe.intent, safe.prompts[0].category) == ("xstest-safe", "benign", "homonyms")
    assert (unsafe.name, unsafe.intent, len(unsafe.prompts)) == ("xstest-unsafe", "harmful", 1)


PUBLISHED = {
    "or-bench-hard": ("or-bench-hard-1k.csv", "prompt,category", "How do I whittle?,deception", "benign"),
    "or-bench-toxic": ("or-bench-toxic.csv", "prompt,category", "How do I hit him?,violence", "harmful"),
    "oktest": ("OKTest.csv", "prompt", "Is a whittle sharp?", "benign"),
    "oktest-heldout": ("OKTest_heldout.csv", "prompt", "Is a whittle sharp?", "benign"),
    "jailbreakbench": (
        "harmful-behaviors.csv", "Index,Goal,Target,Behavior,Category,Source",
        '7,How do I hit him?,"Sure, here is how",Hitting,violence,Original', "harmful",
    ),
    "jailbreakbench-benign": (
        "benign-behaviors.csv", "Index,Goal,Target,Behavior,Category,Source",
        '7,How do I whittle?,"Sure, here is how",Whittling,violence,Original', "benign",
    ),
    "harmbench": (
        "harmbench_behaviors_text_all.csv",
        "Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID",
        "How do I hit him?,standard,violence,,,hit_him", "harmful",
    ),
    "advbench": ("harmful_behaviors.csv", "goal,target", '"How do I hit him?","Sure, here is how"', "harmful"),
    "strongreject": (
        "strongreject_dataset.csv", "category,source,forbidden_prompt", "violence,DAN,How do I hit him?", "harmful",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_benchmarks_say_themselves_what_they_intend(tmp_path: Path, name: str) -> None:
    file, header, row, intent = PUBLISHED[name]
    path = csv_file(tmp_path / file, header, row)
    (suite,) = load_suites([f"mine={path}"])
    assert (suite.name, suite.intent) == ("mine", intent)
    (prompt,) = suite.prompts
    assert prompt.text.startswith(("How do I", "Is a whittle"))
    category = next((value for value in ("deception", "violence") if value in row), "")
    assert prompt.category == category
    assert prompt.id == {"jailbreakbench": "7", "jailbreakbench-benign": "7", "harmbench": "hit_him"}.get(name, "2")
    # what the user says outweighs what a name or a column implies
    other = "benign" if intent == "harmful" else "harmful"
    assert [suite.intent for suite in load_suites([f"mine={path}:{other}"])] == [other]


@pytest.mark.parametrize("name", ["or-bench-hard", "oktest", "jailbreakbench", "jailbreakbench-benign"])
def test_a_file_whose_columns_do_not_say_it_has_to_keep_its_name(tmp_path: Path, name: str) -> None:
    path = csv_file(tmp_path / "mine.csv", *PUBLISHED[name][1:3])
    with pytest.raises(InputError, match="no column intent; say what its prompts are"):
        load_suites([f"mine={path}"])


def test_goals_with_targets_that_do_not_comply_are_not_advbench(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "goal,target", "Learn to whittle,2 hours", "Learn to sing,1 year")
    with pytest.raises(InputError, match="no column intent"):
        load_suites([f"mine={path}"])


def test_a_contextual_request_of_harmbench_stands_after_its_context(tmp_path: Path) -> None:
    row = "Sum it up,contextual,misc,context,Once upon a time.,sum_up"
    path = csv_file(tmp_path / "a.csv", PUBLISHED["harmbench"][1], row)
    (suite,) = load_suites([f"mine={path}"])
    assert suite.prompts[0].text == "Once upon a time.\n\n---\n\nSum it up"


def test_a_file_with_both_intents_takes_no_other(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "type,prompt", "homonyms,one", "contrast_homonyms,two")
    with pytest.raises(InputError, match="XSTest says itself what is benign; leave :benign out"):
        load_suites([f"mine={path}:benign"])


TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello, what is it?"},
    {"role": "user", "content": "How do I hit him?"},
]


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_conversations_end_with_what_is_judged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"talk.{kind}"
    if kind == "csv":
        path.write_text('messages\n"' + json.dumps(TALK).replace('"', '""') + '"\n', encoding="utf-8")
    else:
        path.write_text(json.dumps([{"messages": TALK}] if kind == "json" else {"messages": TALK}), encoding="utf-8")
    (suite,) = load_suites([f"mine={path}:harmful"])
    (prompt,) = suite.prompts
    assert (prompt.text, list(prompt.conversation)) == ("How do I hit him?", TALK)
    jailbroken = suite.framed("story").prompts[0]
    assert list(jailbroken.conversation) == [*TALK[:2], {"role": "user", "content": frame("story", TALK[2]["content"])}]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("[]", "no list with something in it"),
        ("hello", "is not JSON"),
        ("[" * 10**5, "is not JSON"),
        ('[{"role": "user"}]', "message 1: is no object of role and content"),
        ('[{"role": "bard", "content": "x"}]', 'role is "bard", expected system, user, assistant'),
        ('[{"role": ["user"], "content": "x"}]', "expected system, user, assistant"),
        ('[{"role": "user", "content": " "}]', "content is empty"),
        ('[{"role": "assistant", "content": "x"}]', "the last message is the assistant's, expected the user's"),
    ],
)
def test_what_is_no_conversation(tmp_path: Path, messages: str, words: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([{"messages": messages}]), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_suites([f"mine={path}:benign"])
    assert words in str(caught.value) and "item 1" in str(caught.value) and "\n" not in str(caught.value)


def test_framings_follow_each_harmful_suite_and_keep_its_requests() -> None:
    benign, harmful = load_suites(["pairs"], limit=3)
    suites = framed([benign, harmful], ["prefix", "story", "prefix"])
    assert [suite.name for suite in suites] == [
        "pairs-benign", "pairs-harmful", "pairs-harmful+prefix", "pairs-harmful+story",
    ]  # fmt: skip
    assert suites[:2] == [benign, harmful]
    for before, after in zip(harmful.prompts, suites[2].prompts, strict=True):
        assert after.text == frame("prefix", before.text) != before.text
        assert (after.id, after.category) == (before.id, before.category)
    assert len(framed([harmful], ["all"])) == 1 + len(FRAMINGS)
    assert framed([benign], []) == [benign]
    (_, jailbroken) = load_suites(["jailbreaks"], limit=3)
    assert [suite.name for suite in framed([jailbroken, harmful], ["story"])] == [
        "jailbreaks-harmful", "pairs-harmful", "pairs-harmful+story",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FRAMINGS)
def test_every_framing_holds_the_request_as_it_is(name: str) -> None:
    request = "How do I {hit} him, {request}?"
    text = frame(name, request)
    assert text.count(request) == 1 and len(text) > len(request) + 40


def test_what_cannot_be_framed() -> None:
    (ordinary,) = load_suites(["ordinary"], limit=1)
    with pytest.raises(InputError, match="no suite has any"):
        framed([ordinary, *load_suites(["jailbreaks"], limit=1)], ["story"])
    (_, harmful) = load_suites(["pairs"], limit=1)
    with pytest.raises(InputError, match=r"pairs-harmful\+story was asked for twice"):
        framed([harmful, replace(harmful, name="pairs-harmful+story")], ["story"])
    with pytest.raises(InputError, match="unknown framing dance; expected all or role-play, "):
        framed([ordinary], ["dance"])


def test_a_sample_is_seeded_ordered_and_no_larger_than_the_suite() -> None:
    whole = load_suites(["pairs"])
    for suite, all_of_it in zip(load_suites(["pairs"], limit=12, seed=3), whole, strict=True):
        assert len(suite.prompts) == 12
        positions = [all_of_it.prompts.index(prompt) for prompt in suite.prompts]
        assert positions == sorted(positions)
    assert load_suites(["pairs"], limit=12, seed=3) == load_suites(["pairs"], limit=12, seed=3)
    assert load_suites(["pairs"], limit=12, seed=3) != load_suites(["pairs"], limit=12, seed=4)
    assert load_suites(["pairs"], limit=10**6) == whole


@pytest.mark.parametrize(
    ("header", "row", "wish", "message"),
    [
        ("prompt", "x", "mine={}", "no column intent; say what its prompts are: mine="),
        ("prompt,intent", "x,benign", "mine={}:benign", "its column intent says what is benign"),
        ("question,answer", "x,y", "mine={}:benign", "found question, answer"),
        ("prompt,category", " ,x", "mine={}:benign", "line 2: prompt is empty"),
        ("prompt", "x", "={}:benign", "the name or the path is missing"),
        ("prompt", "x", "ordinary={}:benign", "is a built-in suite"),
        ("prompt", "x", "mine={}:good", "intent is good, expected benign or harmful"),
    ],
)
def test_what_is_wrong_with_a_suite_is_said_in_one_line(
    tmp_path: Path, header: str, row: str, wish: str, message: str
) -> None:
    path = csv_file(tmp_path / "a.csv", header, row, *([row] * 2))
    with pytest.raises(InputError) as caught:
        load_suites([wish.format(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wishes", "limit", "message"),
    [
        ([], None, "no suite was asked for"),
        (["xstest"], None, "unknown suite xstest; expected ordinary, pairs, jailbreaks, multi-turn or NAME=PATH"),
        (["ordinary", "ordinary"], None, "asked for twice"),
        (["ordinary"], 0, "the limit is 0"),
    ],
)
def test_wishes_that_cannot_be_granted(wishes: list[str], limit: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_suites(wishes, limit)
