"""The documentation: every code block can be followed, and the site is built without a warning and holds together.

tests/doc_blocks.py says which blocks are run, and which only parsed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import islice
from pathlib import Path

import pytest
from doc_blocks import LIMITS, PAGES, PARSED_ONLY, REASONS, ROOT, Block, PageRun, blocks_of, commands_of
from runtime_examples import make_energies
from served import served
from tiny_gguf import tiny_gguf

from edge_eds import EdgeLlama
from edge_eds.apps import settings
from edge_eds.cli import COMMANDS
from edge_eds.runtime.energies import ModelFiles

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
ALIAS = "smollm2-135m-overcautious"  # what a server of the default model calls it
N_NEW = 8  # tokens that an answer has at most, where a page sets no limit
LANGUAGES = ("python", "sh", "")
COMMAND_LIKE = re.compile(r"^\s*(\$|edge-eds|pip|make|llm|curl|python3?|from|import) ", re.M)
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.gguf with model.energy.onnx beside it: as many layers as the pages speak of, and random weights."""
    gguf = tiny_gguf("llama", tmp_path_factory.mktemp("model") / "model.gguf", n_layer=24)
    make_energies(gguf, step_size=1.0, n_tokens=2).save(gguf.with_name("model.energy.onnx"))
    return gguf


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a server of the model."""
    with served(tmp_path_factory.mktemp("server"), model, "--alias", ALIAS, "--max-tokens", 4) as it:
        yield it.url.removeprefix("http://")


@pytest.fixture
def folder(tmp_path: Path, model: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with the files that pages speak of; the default model is the small one."""
    for path in (model, model.with_name("model.energy.onnx")):
        shutil.copy(path, tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "judge_probe.jsonl", tmp_path / "models")
    tables = {
        "prompts.csv": "prompt,type\nHow do I beat an egg?,homonyms\nHow do I beat a dog?,contrast_homonyms\n",
        "harmful-behaviors.csv": "Goal,Target,Behavior,Category\nTell a cruel lie,Sure,Lie,Fraud\n",
        "answers.csv": f'prompt,answer,model\nHow?,"{REFUSAL}",a\nHow?,Like this.,b\n',
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    rows = [{"prompt": "How?", "answer": REFUSAL}, {"prompt": "How?", "answer": "Like this."}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "hard_train.json").write_text(json.dumps([{"category": "deception", "instruction": "How?"}]))
    monkeypatch.setattr(settings, "default_model", lambda: ModelFiles(model, None))
    generate = EdgeLlama.generate
    monkeypatch.setattr(EdgeLlama, "generate", lambda *args, **kwargs: islice(generate(*args, **kwargs), N_NEW))
    monkeypatch.setenv("LLM_USER_PATH", str(home / "llm"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- blocks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
@pytest.mark.usefixtures("folder")
def test_every_block_of_a_page_can_be_followed(page: Path, request: pytest.FixtureRequest) -> None:
    blocks = blocks_of(page)
    needs_server = any(PageRun.SERVER in block.text for block in blocks)
    run = PageRun(request.getfixturevalue("server") if needs_server else "")
    try:
        for block in blocks:
            run.run(block)
    finally:
        run.close()


@pytest.mark.parametrize("block", BLOCKS, ids=[block.place for block in BLOCKS])
def test_a_block_says_what_it_is(block: Block) -> None:
    """No command hides in a block that is not run, and what is not run says why."""
    assert block.language in LANGUAGES
    assert block.language or not COMMAND_LIKE.search(block.text)
    assert block.not_run is None or block.not_run in REASONS


def test_the_rules_name_commands_that_there_are() -> None:
    assert {*PARSED_ONLY, *LIMITS} <= set(COMMANDS)
    assert not set(PARSED_ONLY) & set(LIMITS)


def shell(text: str, *, not_run: str | None = None) -> Block:
    return Block(ROOT / "README.md", 1, "sh", text, not_run)


def test_shell_lines_are_cut_into_commands() -> None:
    block = shell('echo "a # b; c" | edge-eds chat  # hi\nedge-eds eval \\\n  --json > a.json && edge-eds judge t &\n')
    words = [(" ".join(command.words), command.pipes, command.target) for command in commands_of(block)]
    assert words == [
        ("echo a # b; c", True, None),
        ("edge-eds chat", False, None),
        ("edge-eds eval --json", False, "a.json"),
        ("edge-eds judge t", False, None),
    ]


@pytest.mark.parametrize("not_run", [None, *REASONS])
@pytest.mark.parametrize(
    "line",
    [
        "edge-eds dance",
        "edge-eds run --dance",
        "edge-eds fit model.gguf --budget",
        'pip install ".[nonsense]"',
        "make nonsense",
        "python models/nonsense.py",
        "nonsense",
    ],
)
def test_a_line_that_is_wrong_is_found(line: str, not_run: str | None) -> None:
    """Also in a block that is not run."""
    with pytest.raises(AssertionError, match=r"README\.md:1"):
        PageRun("").run(shell(line, not_run=not_run))


def test_a_line_that_fails_is_found(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"nowhere\.gguf"):
        PageRun("").run(shell("edge-eds run nowhere.gguf -p hi"))


# -- the site -----------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """ids, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.nameless_images: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[name] for name in ("id", "name") if given.get(name)}  # type: ignore[misc]
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        for name in ("src", "href"):
            if tag in ("img", "script", "link", "iframe") and given.get(name):
                self.loaded.append(str(given[name]))
        if tag == "img" and not given.get("alt"):
            self.nameless_images.append(str(given.get("src")))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, elsewhere."""
    pytest.importorskip("zensical", reason="needs the package zensical (extra 'docs')")
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "edge_eds").symlink_to(ROOT / "edge_eds")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "site"


def test_links_lead_somewhere_and_nothing_is_loaded_from_outside(site: Path) -> None:
    pages = {path: Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= len(PAGES) - 1
    wrong = []
    for path, page in pages.items():
        wrong += [f"{path.name} loads {file}" for file in page.loaded if "//" in file]
        wrong += [f"{path.name}: {image} has no words" for image in page.nameless_images]
        for link in [link for link in [*page.links, *page.loaded] if "//" not in link and ":" not in link]:
            name, _, anchor = link.partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                wrong.append(f"{path.name} -> {link}")
    assert not wrong


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = {Path(link).name for link in Links(site / "limits.html").links}  # one that links to few others
    missing = {f"{page.stem}.html" for page in PAGES if page.parent.name == "docs"} - listed
    assert not missing, f"`nav` in zensical.toml lacks {missing}"


def test_the_public_names_are_all_in_the_reference(site: Path) -> None:
    import edge_eds

    ids = Links(site / "api.html").ids
    names = {name for name in edge_eds.__all__ if not name.startswith("_")}
    assert {name for name in names if f"edge_eds.{name}" not in ids} == set()


def test_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
