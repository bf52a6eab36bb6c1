"""The chat: what entries mean, what is shown and kept, and how it behaves at a terminal and in a pipe."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM, assert_one_line, edge_eds, start
from fake_llama import PLAIN_ANSWER, STEERED_ANSWER, FakeLlama, fake_session, rendered
from steered_model import steered_model

from edge_eds.apps import answer as answer_module
from edge_eds.apps.answer import Answer, SteeringReport
from edge_eds.apps.chat_input import read_entry
from edge_eds.apps.chat_loop import Chat
from edge_eds.apps.chat_state import (
    Ask,
    ChatState,
    Compare,
    Complain,
    Leave,
    Load,
    Save,
    Say,
    ShowEnergy,
    Turn,
    parse_chat,
)
from edge_eds.apps.settings import Sampling
from edge_eds.apps.status import bar, energy_picture, side_by_side, status_line
from edge_eds.apps.terminal import Terminal
from edge_eds.errors import InputError
from edge_eds.runtime.trace import TokenTrace

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

SHORT = ("--max-tokens", 6, "--threads", 1)
TOUCHED = SteeringReport(
    "benign",
    -2.0,
    1,
    3.0,
    -1.0,
    (TokenTrace(0, 3.0, -1.0, 0.15, True), TokenTrace(1, 0.5, 0.5, 0.0, False)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steered_model(tmp_path_factory.mktemp("model"))


def turn(question: str = "hi", text: str = "Hello there.", **settings: Any) -> Turn:
    defaults = {"finish_reason": "stop", "strength": 1.0, "pieces": ("Hello", " there."), "steering": TOUCHED}
    return Turn(({"role": "user", "content": question},), Answer(text, **{**defaults, **settings}), Sampling())


def asked(state: ChatState, text: str, literal: bool = False) -> list[tuple[str, str]]:
    """The (role, text) of the conversation that an entry asks."""
    effect = state.enter(text, literal)
    assert isinstance(effect, Ask)
    return [(message["role"], message["content"]) for message in effect.messages]


# -- what is entered ----------------------------------------------------------------------------------------


def entries(*lines: str) -> list[tuple[str, bool]]:
    """All entries of an input, and whether each is literal."""
    remaining = iter(lines)

    def next_line(goes_on: bool) -> str:
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None

    found = []
    while True:
        try:
            found.append(read_entry(next_line))
        except EOFError:
            return found


def test_a_line_is_an_entry() -> None:
    assert entries("one", "", "two") == [("one", False), ("", False), ("two", False)]


def test_a_backslash_goes_on() -> None:
    assert entries("one\\", "two\\", "three", "four") == [("one\ntwo\nthree", False), ("four", False)]
    assert entries("to the end\\") == [("to the end", False)]


def test_triple_quotes_hold_many_lines() -> None:
    assert entries('"""', "def f():", "", "    pass", '"""', "next")[0] == ("\ndef f():\n\n    pass\n", True)
    assert entries('"""one line"""') == [("one line", True)]
    assert entries('"""a', 'b"""') == [("a\nb", True)]
    assert entries('"""never', "ended") == [("never\nended", True)]


# -- what entries mean --------------------------------------------------------------------------------------


def test_a_message_is_asked_with_all_that_was_said() -> None:
    state = ChatState("m")
    assert asked(state, "hi") == [("user", "hi")]
    state.answered(turn("hi", "Hello there."))
    state.enter("/system Be brief.")
    expected = [("system", "Be brief."), ("user", "hi"), ("assistant", "Hello there."), ("user", "and now?")]
    assert asked(state, "and now?") == expected


def test_a_slash_can_be_sent_as_a_message() -> None:
    state = ChatState("m")
    assert asked(state, " /etc/passwd is what?") == [("user", "/etc/passwd is what?")]
    assert asked(state, "/clear", literal=True) == [("user", "/clear")]


def test_steering_is_switched_and_set() -> None:
    state = ChatState("m", strength=1.5)
    assert state.strength_in_force == 1.5
    assert isinstance(state.enter("/steer off"), Say) and state.strength_in_force == 0
    assert isinstance(state.enter("/steer on"), Say) and state.strength_in_force == 1.5
    assert isinstance(state.enter("/steer 0.5"), Say) and state.strength_in_force == 0.5
    said = state.enter("/steer")
    assert isinstance(said, Say) and "0.5" in said.text


@pytest.mark.parametrize("wish", ["maybe", "nan", "-1", "1e9", "inf"])
def test_a_strength_that_makes_no_sense_changes_nothing(wish: str) -> None:
    state = ChatState("m")
    assert isinstance(state.enter(f"/steer {wish}"), Complain)
    assert state.strength_in_force == 1


def test_the_system_prompt_is_set_shown_and_taken_away() -> None:
    state = ChatState("m")
    state.enter("/system Be brief.")
    shown = state.enter("/system")
    assert isinstance(shown, Say) and "Be brief." in shown.text
    state.enter("/system none")
    assert asked(state, "hi") == [("user", "hi")]


def test_clear_begins_anew_and_keeps_the_settings() -> None:
    state = ChatState("m", system="Be brief.", strength=0.5)
    state.answered(turn())
    state.enter("/clear")
    assert asked(state, "hi") == [("system", "Be brief."), ("user", "hi")]
    assert state.strength_in_force == 0.5
    assert isinstance(state.enter("/energy"), Complain)


def test_commands_that_need_an_answer_say_so() -> None:
    state = ChatState("m")
    assert isinstance(state.enter("/compare"), Complain) and isinstance(state.enter("/energy"), Complain)
    state.answered(turn())
    assert state.enter("/compare") == Compare() and state.enter("/energy") == ShowEnergy()


def test_there_is_nothing_to_compare_without_steering() -> None:
    state = ChatState("m")
    state.answered(turn(strength=0.0))
    assert isinstance(state.enter("/compare"), Complain)
    unsteerable = ChatState("m", steerable=False)
    unsteerable.answered(turn(strength=0.0))
    assert isinstance(unsteerable.enter("/compare"), Complain)
    assert isinstance(unsteerable.enter("/steer on"), Complain)


def test_files_are_named(home: Path) -> None:
    state = ChatState("m")
    assert state.enter("/save my chat.json") == Save(Path("my chat.json"))
    assert state.enter("/load ~/chat.json") == Load(home / "chat.json")
    assert isinstance(state.enter("/save"), Complain)


def test_help_exit_and_unknown_commands() -> None:
    state = ChatState("m")
    told = state.enter("/help")
    assert isinstance(told, Say)
    for command in ("/steer", "/compare", "/energy", "/system", "/save", "/load", "/clear", "/help", "/exit"):
        assert command in told.text
    assert state.enter("/exit") == Leave()
    unknown = state.enter("/stere off")
    assert isinstance(unknown, Complain) and "/stere" in unknown.text and "/help" in unknown.text


def test_an_answer_stopped_before_it_began_leaves_no_trace() -> None:
    state = ChatState("m")
    state.answered(turn(text="", pieces=(), finish_reason="interrupted"))
    assert asked(state, "again") == [("user", "again")]


# -- saved chats --------------------------------------------------------------------------------------------


def test_a_saved_chat_goes_on_where_it_was() -> None:
    state = ChatState("m", system="Be brief.", strength=0.5, steering=False)
    state.answered(turn("naïve “question”", "…\nanswer"))
    again = ChatState("m")
    assert "1 turn" in again.load_json(state.to_json())
    assert again.to_json() == state.to_json()
    assert asked(again, "and?") == asked(state, "and?")


def test_a_chat_with_another_model_says_so() -> None:
    assert "other.gguf" in ChatState("m").load_json(ChatState("other.gguf").to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"edge_eds_chat": 99},
        {"edge_eds_chat": "1"},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "x"}]},
        {"messages": ["hi", "ho"]},
        {"messages": {}},
        {"system": None},
        {"strength": float("nan")},
        {"strength": "hard"},
        {"steering": 1},
        {"model": None},
    ],
    ids=repr,
)
def test_what_is_no_saved_chat_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    state = ChatState("m", system="Be brief.")
    state.answered(turn())
    before = state.to_json()
    with pytest.raises(InputError):
        state.load_json(json.dumps({**json.loads(before), **change}))
    assert state.to_json() == before


@pytest.mark.parametrize("text", ["", "no json", "[]", "null", "{}"])
def test_any_other_file_is_no_saved_chat(text: str) -> None:
    with pytest.raises(InputError, match="no saved chat"):
        parse_chat(text)


# -- what is shown ------------------------------------------------------------------------------------------


def test_the_status_line_says_what_steering_did() -> None:
    line = status_line(turn(seconds=1.1, seconds_to_first_token=0.1).answer, steerable=True)
    assert "1.0 tokens/s" in line
    assert "gate benign (-2.00)" in line
    assert "energy 3.00 -> -1.00" in line
    assert "1 token touched" in line


def test_the_status_line_says_when_nothing_was_touched() -> None:
    uncertain = turn(steering=SteeringReport("uncertain", 0.1)).answer
    assert status_line(uncertain, steerable=True).endswith("gate uncertain (+0.10) | nothing touched")
    fine = turn(steering=SteeringReport("benign", -2.0, refusal_in_sight=False)).answer
    assert status_line(fine, steerable=True).endswith("gate benign (-2.00) | no refusal in sight | nothing touched")
    assert "steering off" in status_line(turn(strength=0.0).answer, steerable=True)
    assert "no energies" in status_line(turn(strength=0.0).answer, steerable=False)


def test_the_status_line_says_why_an_answer_ended() -> None:
    for reason, word in {
        "length": "--max-tokens",
        "context": "context is full",
        "interrupted": "stopped",
    }.items():
        assert word in status_line(turn(finish_reason=reason).answer, steerable=True)


def test_the_energy_picture_shows_every_token_that_was_read() -> None:
    lines = energy_picture(turn().answer).splitlines()
    touched = next(line for line in lines if "(end of prompt)" in line)
    untouched = next(line for line in lines if '"Hello"' in line)
    assert touched.startswith("*") and "3.00" in touched and "-1.00" in touched and "15%" in touched
    assert not untouched.startswith("*") and "0.50" in untouched
    assert "1 token " in lines[-1]


def test_the_energy_picture_has_words_where_nothing_was_touched() -> None:
    assert "nothing was touched" in energy_picture(turn(steering=SteeringReport("uncertain", 0.1)).answer)
    assert "not steered" in energy_picture(turn(strength=0.0, steering=SteeringReport()).answer)


def test_a_long_energy_picture_is_cut_and_counts_the_rest() -> None:
    tokens = tuple(TokenTrace(i, 1.0, 0.0, 0.1, True) for i in range(300))
    picture = energy_picture(turn(steering=SteeringReport("ungated", None, 300, 1.0, 0.0, tokens)).answer)
    assert len(picture.splitlines()) < 60
    assert "252 tokens more, 252 touched" in picture


def test_bars_grow_with_the_fraction() -> None:
    for blocks in (True, False):
        lengths = [len(bar(i / 16, blocks)) for i in range(17)]
        assert lengths == list(range(17))
    assert bar(-1) == "" and bar(7) == bar(1)
    assert bar(0.5, blocks=False).isascii()


@pytest.mark.parametrize("width", [90, 121])
def test_two_answers_stand_side_by_side(width: int) -> None:
    left, right = "left words " * 40, "日本語 " * 40
    page = side_by_side(("one", left), ("two", right), width)
    assert all(len(line) <= width for line in page.splitlines())
    words = [word for line in page.splitlines()[2:] for word in line.split()]
    assert sorted(words) == sorted((left + right).split())


# -- the chat, with a model that answers as told ------------------------------------------------------------


class Screen(Terminal):
    """A terminal at which a person enters given lines; keeps what it shows."""

    def __init__(self, lines: tuple[str, ...], width: int = 80) -> None:
        super().__init__()
        self.person = self.on_screen = True
        self.lines: Iterator[str] = iter(lines)
        self.columns = width
        self.shown = ""

    @property
    def width(self) -> int:
        return self.columns

    def ask(self, prompt: str) -> str:
        try:
            return next(self.lines)
        except StopIteration:
            raise EOFError from None

    def answer(self, text: str) -> None:
        self.shown += text
        self._at_line_start = self.shown.endswith("\n")

    def _show(self, stream: Any, text: str, style: str) -> None:
        self.answer(text + "\n")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """talk(*lines) -> (screen, fake, chat) after a person has entered the lines."""
    monkeypatch.setattr(answer_module, "render_chat", rendered)

    def run(*lines: str, width: int = 80, compare: bool = False, n_ctx: int = 10_000) -> Any:
        session = fake_session(n_ctx)
        screen = Screen(lines, width)
        chat = Chat(session, ChatState("fake.gguf"), screen, Sampling(), compare)
        run.prepare(session.llm)  # type: ignore[attr-defined]
        chat.run()
        return screen, session.llm, chat

    run.prepare = lambda llm: None  # type: ignore[attr-defined]
    return run


def test_an_answer_is_streamed_and_followed_by_its_status(talk: Any) -> None:
    screen, fake, chat = talk("hi")
    assert screen.shown.startswith(f"{STEERED_ANSWER}\n")
    assert "gate benign (-2.00) | energy 3.00 -> -1.00 | 1 token touched" in screen.shown
    assert len(chat.turns) == 1 and chat.turns[0]["prompt"] == "hi"
    assert fake.asked == [[{"role": "user", "content": "hi"}]]


def test_the_next_answer_knows_the_last_one(talk: Any) -> None:
    _, fake, _ = talk("hi", "and?")
    assert [message["content"] for message in fake.asked[1]] == ["hi", STEERED_ANSWER, "and?"]


def test_steering_is_entered_only_when_it_changes(talk: Any) -> None:
    """Settings that are entered anew make the KV cache start anew."""
    _, fake, _ = talk("one", "two", "/steer off", "three", "four", "/steer on", "five")
    assert fake.programs == [1.0, 0.0, 1.0]
    _, fake, _ = talk("one", "/steer 0.5", "two", "three")
    assert fake.programs == [1.0, 0.5]


def test_steer_off_gives_the_plain_answer(talk: Any) -> None:
    screen, _, chat = talk("/steer off", "hi", "/steer on", "hi")
    assert [turn["text"] for turn in chat.turns] == [PLAIN_ANSWER, STEERED_ANSWER]
    assert "steering off" in screen.shown


def test_compare_shows_both_and_changes_nothing(talk: Any) -> None:
    for width in (80, 120):
        screen, fake, chat = talk("hi", "/compare", "and?", width=width)
        assert PLAIN_ANSWER in screen.shown and "without steering" in screen.shown
        assert [message["content"] for message in fake.asked[-1]] == ["hi", STEERED_ANSWER, "and?"]
        assert chat.turns[-1]["text"] == STEERED_ANSWER


def test_compare_stands_side_by_side_on_a_wide_terminal_alone(talk: Any) -> None:
    both = re.compile(re.escape(STEERED_ANSWER) + " +" + re.escape(PLAIN_ANSWER))
    assert both.search(talk("hi", "/compare", width=120)[0].shown)
    assert not both.search(talk("hi", "/compare", width=80)[0].shown)


def test_every_turn_can_be_compared(talk: Any) -> None:
    for width in (80, 120):
        screen, fake, chat = talk("hi", "and?", compare=True, width=width)
        assert [turn["plain"]["text"] for turn in chat.turns] == [PLAIN_ANSWER] * 2
        assert [message["content"] for message in fake.asked[-1]] == ["hi", STEERED_ANSWER, "and?"]
        assert screen.shown.count("tokens/s") == 2


def test_energy_shows_the_trace_of_the_last_answer(talk: Any) -> None:
    screen, _, _ = talk("hi", "/energy")
    assert "(end of prompt)" in screen.shown and '"Use"' in screen.shown


def test_a_conversation_that_no_longer_fits_is_kept(talk: Any) -> None:
    screen, _, chat = talk("one two three", "four five six", "/clear", "seven", n_ctx=8)
    assert "no longer fits" in screen.shown and "/clear" in screen.shown
    assert [turn["prompt"] for turn in chat.turns] == ["one two three", "seven"]


def test_a_message_that_does_not_fit_is_refused_and_the_chat_goes_on(talk: Any) -> None:
    screen, fake, chat = talk("word " * 20, "hi", n_ctx=8)
    assert "more than 8 tokens" in screen.shown and "no longer fits" not in screen.shown
    assert [turn["prompt"] for turn in chat.turns] == ["hi"]
    assert fake.asked == [[{"role": "user", "content": "hi"}]]


def test_ctrl_c_stops_the_answer_and_not_the_program(talk: Any) -> None:
    def interrupt_first_answer(llm: FakeLlama) -> None:
        llm.at_token = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 2 and len(llm.asked) == 1 else None

    talk.prepare = interrupt_first_answer
    screen, _, chat = talk("hi", "and?")
    assert [turn["finish_reason"] for turn in chat.turns] == ["interrupted", "stop"]
    assert chat.turns[0]["text"] == "Use the"
    assert "stopped" in screen.shown
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_before_the_first_token_takes_the_question_back(talk: Any) -> None:
    def interrupt_first_prompt(llm: FakeLlama) -> None:
        llm.at_token = lambda i: os.kill(os.getpid(), signal.SIGINT) if i == 0 and len(llm.asked) == 1 else None

    talk.prepare = interrupt_first_prompt
    _, fake, chat = talk("hi", "and?")
    assert chat.turns[0]["finish_reason"] == "interrupted"
    assert fake.asked[1] == [{"role": "user", "content": "and?"}]


def test_save_and_load_in_a_chat(talk: Any, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    screen, _, _ = talk("hi", f"/save {path}")
    assert f"saved to {path}" in screen.shown
    _, fake, _ = talk(f"/load {path}", "and?")
    assert [message["content"] for message in fake.asked[0]] == ["hi", STEERED_ANSWER, "and?"]
    talk("ho", f"/save {path}")
    assert json.loads(path.read_text("utf-8"))["messages"][0]["content"] == "ho"


def test_other_files_are_not_overwritten(talk: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    screen, _, _ = talk("hi", f"/save {path}")
    assert "not overwritten" in screen.shown
    assert path.read_text() == "precious"


def test_a_failing_save_is_one_line_and_the_chat_goes_on(
    talk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, word in ((folder, "directory"), (tmp_path / "no" / "chat.json", "no folder")):
        screen, _, chat = talk("hi", f"/save {path}", "and?")
        assert word in screen.shown and len(chat.turns) == 2

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    screen, _, chat = talk("hi", f"/save {tmp_path / 'chat.json'}", "and?")
    assert "No space left on device" in screen.shown and len(chat.turns) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_one_line_and_the_chat_goes_on(talk: Any) -> None:
    screen, _, chat = talk("hi", "/save /dev/full", "and?")
    assert "/dev/full: cannot be written: No space left on device" in screen.shown
    assert len(chat.turns) == 2
    assert Path("/dev/full").is_char_device()


def test_a_failing_load_is_one_line_and_changes_nothing(talk: Any, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "text").write_text("no json")
    for name, word in {
        "": "directory",
        "missing": "No such file",
        "bytes": "UTF-8",
        "text": "no saved chat",
    }.items():
        screen, fake, _ = talk("hi", f"/load {tmp_path / name}", "and?")
        assert word in screen.shown
        assert [message["content"] for message in fake.asked[-1]] == ["hi", STEERED_ANSWER, "and?"]


def test_control_characters_do_not_reach_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.on_screen = True
    terminal.answer("a\x1b[2Jb\x07\tc\n")
    assert capsys.readouterr().out == "a[2Jb\tc\n"


# -- the chat in a pipe -------------------------------------------------------------------------------------


def test_each_line_of_a_pipe_is_a_message(model: Path) -> None:
    outcome = edge_eds("chat", model, *SHORT, stdin="hi\n\nhello\n")
    assert outcome.code == 0
    assert outcome.stderr.count("tokens/s") == 2
    assert "gate benign" in outcome.stderr
    assert "tokens/s" not in outcome.stdout and "\x1b" not in outcome.stdout + outcome.stderr


def test_an_empty_pipe_is_an_empty_chat(model: Path) -> None:
    outcome = edge_eds("chat", model, *SHORT)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")


def test_a_pipe_that_ends_without_a_newline_is_answered(model: Path) -> None:
    assert edge_eds("chat", model, *SHORT, stdin="hi").stdout == edge_eds("chat", model, *SHORT, stdin="hi\n").stdout


def test_the_document_of_a_chat_has_all_turns(model: Path) -> None:
    outcome = edge_eds("chat", model, *SHORT, "--json", stdin="hi\n/steer off\nhello\n")
    found = json.loads(outcome.stdout)
    assert found["model"] == "tiny.gguf"
    assert [turn["prompt"] for turn in found["turns"]] == ["hi", "hello"]
    assert [turn["strength"] for turn in found["turns"]] == [1.0, 0.0]


def test_in_a_pipe_what_goes_wrong_ends_the_chat(model: Path) -> None:
    assert_one_line(edge_eds("chat", model, *SHORT, stdin="/stere off\nhi\n"), ("unknown command /stere",))
    assert_one_line(edge_eds("chat", model, "--ctx", 256, stdin="word " * 500), ("context", "256"))


def test_input_that_is_no_text_is_one_line(model: Path) -> None:
    with start("chat", model) as program:
        assert program.stdin is not None and program.stderr is not None
        program.stdin.buffer.write(b"\xff\xfe\n")
        program.stdin.close()
        stderr = program.stderr.read()
    assert program.returncode == 1
    assert stderr.count("\n") == 1 and "UTF-8" in stderr


def test_a_session_runs_with_settings_that_change(model: Path) -> None:
    """On the real runtime: off is the plain model, and on again is what it was."""
    outcome = edge_eds("chat", model, *SHORT, "--json", stdin="hi\n/clear\n/steer off\nhi\n/clear\n/steer on\nhi\n")
    steered, plain, again = (turn["text"] for turn in json.loads(outcome.stdout)["turns"])
    assert steered == again != plain
    unsteered = edge_eds("chat", model, *SHORT, "--json", "--energy", "none", stdin="hi\n")
    assert json.loads(unsteered.stdout)["turns"][0]["text"] == plain


# -- the chat at a real terminal ----------------------------------------------------------------------------


class Pseudoterminal:
    """The chat at a terminal of its own."""

    def __init__(self, *args: object, **variables: str) -> None:
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **variables}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(PROGRAM[0], [*PROGRAM, *map(str, args)], environment)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 60, pressing: str = "") -> str:
        """What was shown up to and including `text`.

        pressing: a key to press now, and again every few seconds: one that comes while the program sets its terminal
        up for the next line is lost, as it is for a person.
        """
        begun = time.monotonic()
        pressed = 0
        while text not in self.shown:
            passed = time.monotonic() - begun
            assert passed < seconds, f"no {text!r} in {self.shown!r}"
            if pressing and passed >= 5 * pressed:
                self.enter(pressing)
                pressed += 1
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:  # the other side is closed
                    break
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def enter(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def status(self) -> int:
        """Exit status."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudoterminal")
def test_a_chat_at_a_terminal(model: Path) -> None:
    terminal = Pseudoterminal("chat", model, "--ctx", 30_000, "--max-tokens", 25_000)
    assert "steered by tiny.energy.onnx" in terminal.wait_for("\n> ")
    terminal.wait_for("Ctrl-D or /exit leaves.", pressing="\x03")
    terminal.wait_for("> ")
    terminal.enter("hello\n")
    terminal.wait_for("hello\r\n")
    time.sleep(0.3)
    terminal.wait_for("stopped", pressing="\x03")
    terminal.wait_for("> ")
    terminal.enter("/help\n")
    terminal.wait_for("/exit")
    terminal.wait_for("\n> ")
    terminal.enter("\x04")
    assert terminal.status() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudoterminal")
def test_colours_at_a_terminal_can_be_declined(model: Path) -> None:
    def greeting(**variables: str) -> str:
        terminal = Pseudoterminal("chat", model, **variables)
        shown = terminal.wait_for("leaves.") + terminal.wait_for("> ")
        terminal.enter("/exit\n")
        assert terminal.status() == 0
        return shown

    assert "\x1b[2m" in greeting()
    assert "\x1b[2m" not in greeting(NO_COLOR="1")
    assert "\x1b[2m" not in greeting(TERM="dumb")
