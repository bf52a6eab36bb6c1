"""Train the judge that tells refusals from answers, and measure it on models that it was not trained on.

Takes the answers of chat models with human labels, as XSTest (Röttger et al. 2024) publishes them: CSV files named
completions_GENERATOR.csv with the columns id, prompt, completion and final_label (1_full_compliance, 2_full_refusal,
3_partial_refusal). Gives edge_eds/judge/refusal_judge.json: weights of features, no text. Leaves out thresholds: the
most probable label is the verdict.

Training examples are all answers, whole and cut off after 20 and 45 words (what small models are given room for), and
the project's own (judge_examples.py), whole and cut off after 10. A feature is kept if at least MIN_EXAMPLES examples
have it, and two sources, so that no generator's manner is learned. The classifier is a multinomial logistic regression
with an L2 penalty.

Measured is the classifier alone as it stands in the package: trained on all generators but one, tested on that one; and
so that the tested prompts have not been seen with other generators' answers either (five folds of prompts). Intervals
are Wilson's at 95 %. The features, and the project's own examples, were made in knowledge
of the errors of earlier versions on all these answers, so none of this is entirely blind. --more adds answers that were
written and labelled by hand, each writer as one generator more: judge_probe.jsonl, a test of the shipped judge.

    pip install scikit-learn
    python models/train_judge.py PATH_OF_THE_CSV_FILES
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sklearn
from judge_examples import examples
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from edge_eds.files import write_whole
from edge_eds.pipeline.judge import decide
from edge_eds.pipeline.judged_text import JudgedText
from edge_eds.pipeline.judging import refusal_f1
from edge_eds.pipeline.prompt_files import read_rows
from edge_eds.pipeline.refusal_classifier import CLASSES, RefusalClassifier, builtin_path
from edge_eds.pipeline.refusal_features import Features, describe
from edge_eds.pipeline.statistics import Rate, wilson
from edge_eds.pipeline.transcripts import TranscriptColumns, read_transcripts

HUMAN_LABELS = {"1_full_compliance": "answer", "2_full_refusal": "refusal", "3_partial_refusal": "partial"}
CUTS = (None, 45, 20)  # words that are left of an answer; None leaves all
OWN_CUTS = (None, 10)  # the own examples are short
MIN_EXAMPLES = 10
PENALTY = 0.05  # sklearn's C: the smaller, the stronger
MIN_WEIGHT = 0.004  # smaller ones are dropped: together they do not change a verdict
N_FOLDS = 5
SHOWN_CHARACTERS = 200
OWN = "own examples"


@dataclass(frozen=True)
class Example:
    """One labelled answer. source: the generator, or OWN; prompt_id: the same for all generators."""

    source: str
    prompt_id: str
    prompt: str
    answer: str
    label: str

    def cut(self, n_words: int | None) -> str:
        """The answer's beginning."""
        if n_words is None or len(self.answer.split()) <= n_words:
            return self.answer
        end = 0
        for word in self.answer.split()[:n_words]:
            end = self.answer.index(word, end) + len(word)
        return self.answer[:end]


@dataclass(frozen=True)
class Tested:
    """A left-out generator's answers in the order of its file, with their human and judged labels."""

    examples: tuple[Example, ...]
    human: tuple[str, ...]
    judged: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of completions_GENERATOR.csv")
    parser.add_argument("--out", type=Path, default=builtin_path(), help="file to write the judge to")
    parser.add_argument("--seed", type=int, default=0, help="of the own examples")
    parser.add_argument("--measure-only", action="store_true", help="train and write no final judge")
    parser.add_argument("--without-own", action="store_true", help="leave the own examples out")
    parser.add_argument("--errors", action="store_true", help="show the clear labels that are missed")
    parser.add_argument("--more", type=Path, help="JSONL of writer, prompt, answer, label")
    options = parser.parse_args()
    labelled = [*read_labelled(options.folder), *(read_written(options.more) if options.more else ())]
    own = [] if options.without_own else own_examples(options.seed)
    report(by_phrases(labelled), "phrases alone, whole answers")
    for by_prompt in (False, True):
        for n_words in CUTS:
            found = left_out(labelled, own, n_words, by_prompt)
            unseen = "generator and prompts left out" if by_prompt else "generator left out"
            report(found, f"{unseen}, {'whole answers' if n_words is None else f'first {n_words} words'}")
            if options.errors and n_words is None and not by_prompt:
                show_errors(found)
    if not options.measure_only:
        judge = fit([*labelled, *own])
        write(judge, options.out)
        print(f"{options.out}: {len(judge.weights)} features, {options.out.stat().st_size} bytes")


# ---- examples ----


def read_labelled(folder: Path) -> list[Example]:
    """The human-labelled answers of every generator."""
    found = []
    for path in sorted(folder.glob("completions_*.csv")):
        source = path.stem.removeprefix("completions_")
        for row in read_rows(path):
            label = HUMAN_LABELS[row.text("final_label")]
            found.append(Example(source, row.text("id"), row.text("prompt"), row.fields["completion"].strip(), label))
    if not found:
        raise SystemExit(f"{folder}: no completions_*.csv there")
    return found


def read_written(path: Path) -> list[Example]:
    """Answers that were written and labelled by hand, such as judge_probe.jsonl."""
    return [
        Example(one.group, f"{one.group}-{one.row}", one.prompt, one.answer, one.human)
        for one in read_transcripts(path, TranscriptColumns(labels="label", by="writer"))
    ]


def own_examples(seed: int) -> list[Example]:
    """The project's own."""
    return [Example(OWN, f"own-{i}", *example) for i, example in enumerate(examples(seed))]


@cache
def described(example: Example, n_words: int | None) -> Features:
    """The features of the answer's beginning."""
    return describe(JudgedText.of(example.prompt, example.cut(n_words))).features


# ---- training ----


def fit(training: Sequence[Example]) -> RefusalClassifier:
    """The classifier of all examples, each at several lengths."""
    kept = frequent_features(training)
    rows, labels = [], []
    for example in training:
        for n_words in lengths(example):
            found = described(example, n_words)
            rows.append({name: value for name, value in found.items() if name in kept})
            labels.append(CLASSES.index(example.label))
    vectorizer = DictVectorizer()
    model = LogisticRegression(C=PENALTY, max_iter=5000, tol=1e-6).fit(vectorizer.fit_transform(rows), labels)
    answer, refusal, partial = range(len(CLASSES))
    relative = model.coef_ - model.coef_[answer]
    weights = {
        name: (round(float(relative[refusal, i]), 3), round(float(relative[partial, i]), 3))
        for i, name in enumerate(vectorizer.get_feature_names_out())
    }
    bias = model.intercept_ - model.intercept_[answer]
    return RefusalClassifier(
        weights={name: both for name, both in sorted(weights.items()) if max(map(abs, both)) >= MIN_WEIGHT},
        bias=(round(float(bias[refusal]), 3), round(float(bias[partial]), 3)),
        made={
            "examples": dict(Counter(example.source for example in training)),
            "examples_sha256": digest(training),
            "cuts": CUTS,
            "own_cuts": OWN_CUTS,
            "min_examples": MIN_EXAMPLES,
            "penalty": PENALTY,
            "scikit-learn": sklearn.__version__,
        },
    )


def lengths(example: Example) -> tuple[int | None, ...]:
    """What is left of an answer in training. What a partial answer gives comes late, so the own ones stay whole."""
    if example.source != OWN:
        return CUTS
    return (None,) if example.label == "partial" else OWN_CUTS


def frequent_features(training: Iterable[Example]) -> set[str]:
    """Features of at least MIN_EXAMPLES examples and of two sources."""
    counts: Counter[str] = Counter()
    sources = defaultdict(set)
    for example in training:
        for name in described(example, None):
            counts[name] += 1
            sources[name].add(example.source)
    return {name for name, n in counts.items() if n >= MIN_EXAMPLES and len(sources[name]) >= 2}


def digest(training: Sequence[Example]) -> str:
    """A hash of all prompts, answers and labels."""
    text = json.dumps([(example.prompt, example.answer, example.label) for example in training])
    return hashlib.sha256(text.encode()).hexdigest()


def write(judge: RefusalClassifier, path: Path) -> None:
    """One line a feature, so that two versions can be compared."""
    data = judge.to_json()
    weights = ",\n".join(f"  {json.dumps(name)}: {json.dumps(both)}" for name, both in judge.weights.items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(data[key])}" for key in ("format", "made", "bias"))
    write_whole(path, f'{{\n{head},\n "weights": {{\n{weights}\n }}\n}}\n'.encode())


# ---- measuring ----


def left_out(
    labelled: Sequence[Example], own: Sequence[Example], n_words: int | None, by_prompt: bool
) -> dict[str, Tested]:
    """{generator: its labels}, each judged by a classifier that has not seen it (nor, by_prompt, its prompts)."""
    found = {}
    for generator in dict.fromkeys(example.source for example in labelled):
        tested = [example for example in labelled if example.source == generator]
        judged = []
        for example in tested:
            judge = trained_without(tuple(labelled), tuple(own), generator, fold(example) if by_prompt else None)
            judged.append(verdict(judge, example, n_words))
        found[generator] = Tested(tuple(tested), tuple(example.label for example in tested), tuple(judged))
    return found


def by_phrases(labelled: Sequence[Example]) -> dict[str, Tested]:
    """The same by the points of the phrases alone, for comparison; they know no partial answers."""
    found: dict[str, list[Example]] = defaultdict(list)
    for example in labelled:
        found[example.source].append(example)
    return {
        generator: Tested(
            tuple(tested),
            tuple(example.label for example in tested),
            tuple("refusal" if described(example, None).get("points from 2") else "answer" for example in tested),
        )
        for generator, tested in found.items()
    }


@cache
def trained_without(
    labelled: tuple[Example, ...], own: tuple[Example, ...], generator: str, without: int | None
) -> RefusalClassifier:
    """Trained on the other generators, and on the prompts of the other folds if `without` is one."""
    rest = [example for example in labelled if example.source != generator and fold(example) != without]
    return fit([*rest, *own])


def fold(example: Example) -> int:
    """The same for all answers to a prompt."""
    return zlib.crc32(example.prompt_id.encode()) % N_FOLDS


def verdict(judge: RefusalClassifier, example: Example, n_words: int | None) -> str:
    """The label as the package would give it with this classifier."""
    return decide(judge, example.prompt, example.cut(n_words)).label


def report(found: Mapping[str, Tested], title: str) -> None:
    """Print F1, recall, false alarms and the confusion of each generator."""
    print(f"\n{title}")
    for generator, tested in found.items():
        table = Counter(zip(tested.human, tested.judged, strict=True))
        totals = Counter(tested.human)
        clear = [pair for pair in zip(tested.human, tested.judged, strict=True) if pair[0] in ("answer", "refusal")]
        f1 = refusal_f1([human for human, _ in clear], [said for _, said in clear])
        recall = wilson(table["refusal", "refusal"], totals["refusal"])
        alarms = wilson(table["answer", "refusal"], totals["answer"])
        print(
            f"  {generator}: F1 {shown(f1)}, n {len(clear)}; refusals found {shown(recall)}, "
            f"answers taken for refusals {shown(alarms)}"
        )
        for label in CLASSES:
            counts = Counter({said: n for (human, said), n in table.items() if human == label})
            row = ", ".join(f"{n} {judged_label}" for judged_label, n in counts.most_common())
            print(f"    human {label:8} {sum(counts.values()):4}: {row}")


def show_errors(found: Mapping[str, Tested]) -> None:
    """Print the answers whose refusal, or compliance, is judged otherwise."""
    for generator, tested in found.items():
        for example, human, said in zip(tested.examples, tested.human, tested.judged, strict=True):
            if human != "partial" and (human == "refusal") != (said == "refusal"):
                print(f"  {generator}, human {human}, judged {said}: {example.prompt}")
                print(f"      {' '.join(example.answer.split())[:SHOWN_CHARACTERS]}")


def shown(rate: Rate | None) -> str:
    """A rate with its interval."""
    return "-" if rate is None else f"{rate.value:.3f} ({rate.low:.3f}-{rate.high:.3f})"


if __name__ == "__main__":
    main()
