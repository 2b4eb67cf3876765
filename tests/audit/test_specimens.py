"""Rewritten specimens of what went wrong in public records, each with the probe that catches it.

The scorers count pairs of tokens: small enough to read, and as able to cheat as a network. The numbers with
a # are pull requests of openai/parameter-golf. Shapes: N targets, V vocabulary.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from score_toys import BOS_ID, VOCAB_SIZE, toy_documents
from tiny_samples import tiny_text, tiny_tokenizer, write_tiny_dataset

from golf.audit.rescore import (
    ProbedScorer,
    Probing,
    Replay,
    probe_bytes,
    probe_causality,
    probe_document_start,
    probe_ledger,
    probe_normalization,
)
from golf.data.manifest import Manifest, open_dataset
from golf.data.shards import DataError, read_shard, write_shard
from golf.data.vocabulary import SPACE_MARK, Vocabulary
from golf.entry.results import EntryError
from golf.entry.runs import check_track
from golf.score.ledger import Ledger
from golf.system.clock import PhaseError, StageClock

CHUNK = 24
TOKENS = toy_documents([30, 4, 41, 25], seed=3)
TARGETS = (5, 23, 24, 29, 60, 90)

Grades = tuple[np.ndarray, np.ndarray | None]
"""Nats of all targets (N,), and their distributions' logarithms (N, V) from a scorer that has them."""
Specimen = Callable[[np.ndarray, Ledger], Grades]


class Counts:
    """Predicts from how often tokens followed each other so far."""

    def __init__(self) -> None:
        self.pairs_VV = np.full((VOCAB_SIZE, VOCAB_SIZE), 0.3)

    def predict(self, previous: int) -> np.ndarray:
        return self.pairs_VV[previous] / self.pairs_VV[previous].sum()

    def learn(self, tokens: np.ndarray) -> None:
        np.add.at(self.pairs_VV, (tokens[:-1], tokens[1:]), 1.0)


def chunks(tokens: np.ndarray) -> list[tuple[int, int]]:
    num_targets = len(tokens) - 1
    return [(start, min(start + CHUNK, num_targets)) for start in range(0, num_targets, CHUNK)]


def grade(model: Counts, tokens: np.ndarray, start: int, end: int) -> Grades:
    probs_NV = np.stack([model.predict(tokens[target]) for target in range(start, end)])
    return -np.log(probs_NV[np.arange(end - start), tokens[start + 1 : end + 1]]), np.log(probs_NV)


def joined(parts: list[Grades]) -> Grades:
    return np.concatenate([nats for nats, _ in parts]), np.concatenate([logs for _, logs in parts])


def from_distributions(tokens: np.ndarray, probs: list[np.ndarray]) -> Grades:
    probs_NV = np.stack(probs)
    return -np.log(probs_NV[np.arange(len(probs)), tokens[1:]]), np.log(probs_NV)


class Unbooked(Ledger):
    """Lets everything pass, so that what a specimen does can be seen by the other probes too."""

    def grade(self, start: int, end: int, event: str) -> None:
        pass

    def train(self, start: int, end: int, event: str) -> None:
        pass


def grade_every_token(
    grade: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, target: int
) -> np.ndarray:
    """The distribution (V,) of a scorer that gives the target's probability alone."""
    log_probs_V = np.empty(VOCAB_SIZE)
    for token in range(VOCAB_SIZE):
        changed = tokens.copy()
        changed[target + 1] = token
        log_probs_V[token] = -grade(changed)[target]
    return log_probs_V


def probed(specimen: Specimen, ledger_type: type[Ledger] = Unbooked) -> ProbedScorer:
    def scorer(tokens: np.ndarray, targets: Sequence[int]) -> Replay:
        ledger = ledger_type(len(tokens) - 1)
        nats_N, logs_NV = specimen(tokens, ledger)
        if logs_NV is None:
            logs = {t: grade_every_token(lambda x: specimen(x, Unbooked(0))[0], tokens, t) for t in targets}
        else:
            logs = {t: logs_NV[t] for t in targets}
        return Replay(nats_N, logs, ledger)

    return scorer


def violations(specimen: Specimen) -> dict[str, list[str]]:
    asked = Probing(TOKENS, TARGETS, VOCAB_SIZE, BOS_ID)
    return {
        "ledger": probe_ledger(probed(specimen, Ledger), TOKENS).violations,
        "causality": probe_causality(probed(specimen), asked).violations,
        "normalisation": probe_normalization(probed(specimen), asked).violations,
    }


# The legal ones.


def score_first_then_train(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """#549, #1413: grade a chunk, then learn from it, as often as you like."""
    model, parts = Counts(), []
    for start, end in chunks(tokens):
        ledger.grade(start, end, "grading")
        parts.append(grade(model, tokens, start, end))
        for _ in range(3):
            ledger.train(start, end, "an epoch")
            model.learn(tokens[start : end + 1])
    return joined(parts)


def adapt_to_each_document(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """#1530: learn from each document as it is graded, and forget it at its end."""
    model, probs = Counts(), []
    for target, token in enumerate(tokens[:-1]):
        if token == BOS_ID:
            model = Counts()
        ledger.grade(target, target + 1, "grading")
        probs.append(model.predict(token))
        ledger.train(target, target + 1, "one step")
        model.learn(tokens[target : target + 2])
    return from_distributions(tokens, probs)


def hint_from_the_prefix(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """#1514: boost what followed this token most often so far, and renormalise over the vocabulary."""
    model, seen, probs = Counts(), Counts(), []
    for target, token in enumerate(tokens[:-1]):
        ledger.grade(target, target + 1, "grading")
        boosted = model.predict(token)
        boosted[seen.predict(token).argmax()] *= 4.0
        probs.append(boosted / boosted.sum())
        seen.learn(tokens[target : target + 2])
    return from_distributions(tokens, probs)


def bias_from_graded_context(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """The causal form of SLOT: the shift is fitted on what was graded before."""
    model, parts = Counts(), []
    for start, end in chunks(tokens):
        ledger.grade(start, end, "grading")
        shift_V = 1.0 + np.bincount(tokens[1 : start + 1], minlength=VOCAB_SIZE)
        probs_NV = np.exp(grade(model, tokens, start, end)[1]) * shift_V
        probs_NV /= probs_NV.sum(axis=1, keepdims=True)
        parts.append(
            (-np.log(probs_NV[np.arange(end - start), tokens[start + 1 : end + 1]]), np.log(probs_NV))
        )
    return joined(parts)


# The others.


def train_on_everything_first(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """17; #672, #1376, #1972: adapt on the validation text, then score it."""
    model = Counts()
    ledger.train(0, len(tokens) - 1, "adapting before the score")
    model.learn(tokens)
    ledger.grade(0, len(tokens) - 1, "grading")
    return grade(model, tokens, 0, len(tokens) - 1)


def score_train_and_score_again(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """18; #991, #888: the second grading counts."""
    model, parts = Counts(), []
    for start, end in chunks(tokens):
        ledger.grade(start, end, "first grading")
        grade(model, tokens, start, end)
        ledger.train(start, end, "an epoch")
        model.learn(tokens[start : end + 1])
        ledger.grade(start, end, "second grading")
        parts.append(grade(model, tokens, start, end))
    return joined(parts)


def warm_up_on_validation_text(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """19; #1530: warm-up steps of the optimiser on real validation tokens."""
    model = Counts()
    ledger.train(80, 99, "warm-up")
    model.learn(tokens[80:100])
    ledger.grade(0, len(tokens) - 1, "grading")
    return grade(model, tokens, 0, len(tokens) - 1)


def cached_gold_tokens(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """20; #779, #972: a hashed cache, asked for the gold token alone; all tokens add up to far more."""
    model, cache, nats = Counts(), set(), []
    for target, (token, gold) in enumerate(itertools.pairwise(tokens.tolist())):
        ledger.grade(target, target + 1, "grading")
        hit = (31 * token + 7 * gold) % 16 in cache
        nats.append(-np.log(0.3 * model.predict(token)[gold] + 0.7 * hit + 1e-9))
        cache.add((31 * token + 7 * gold) % 16)
    return np.array(nats), None


def distribution_for_show(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """21; #972 before #978: a sound distribution is shown, another number is graded."""
    _, logs_NV = hint_from_the_prefix(tokens, ledger)
    return cached_gold_tokens(tokens, Unbooked(0))[0], logs_NV


def hint_gated_by_the_target(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """22; #1420, #1437: the boost is given where the target itself is of the right kind."""
    model, seen, probs = Counts(), Counts(), []
    for target, (token, gold) in enumerate(itertools.pairwise(tokens.tolist())):
        ledger.grade(target, target + 1, "grading")
        boosted = model.predict(token)
        if gold % 2 == 0:
            boosted[seen.predict(token).argmax()] *= 4.0
        probs.append(boosted / boosted.sum())
        seen.learn(tokens[target : target + 2])
    return from_distributions(tokens, probs)


def bias_from_the_scored_positions(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """23; SLOT in #1240, #1329: the shift is fitted on the very positions it is used for."""
    model, parts = Counts(), []
    for start, end in chunks(tokens):
        ledger.grade(start, end, "grading")
        shift_V = 1.0 + np.bincount(tokens[start + 1 : end + 1], minlength=VOCAB_SIZE)
        probs_NV = np.exp(grade(model, tokens, start, end)[1]) * shift_V
        probs_NV /= probs_NV.sum(axis=1, keepdims=True)
        parts.append(
            (-np.log(probs_NV[np.arange(end - start), tokens[start + 1 : end + 1]]), np.log(probs_NV))
        )
    return joined(parts)


def mixture_over_bytes(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """24; #1835, #1872: p^(1/n) for each of a token's n bytes, mixed with a byte model, multiplied again."""
    model, nats = Counts(), []
    for target, (token, gold) in enumerate(itertools.pairwise(tokens.tolist())):
        ledger.grade(target, target + 1, "grading")
        num_bytes = gold % 3 + 1
        each = 0.5 * model.predict(token)[gold] ** (1 / num_bytes) + 0.5 * 0.25
        nats.append(-num_bytes * np.log(each))
    return np.array(nats), None


def part_of_the_text(tokens: np.ndarray, ledger: Ledger) -> Grades:
    """30; #1854, #1835: the score of some of the validation text."""
    end = len(tokens) // 2
    ledger.grade(0, end, "grading")
    nats_N, logs_NV = grade(Counts(), tokens, 0, len(tokens) - 1)
    nats_N[end:] = 0.0
    return nats_N, logs_NV


LEGAL = (score_first_then_train, adapt_to_each_document, hint_from_the_prefix, bias_from_graded_context)
CAUGHT = {
    train_on_everything_first: {"ledger", "causality", "normalisation"},
    score_train_and_score_again: {"ledger", "causality", "normalisation"},
    warm_up_on_validation_text: {"ledger", "causality", "normalisation"},
    cached_gold_tokens: {"normalisation"},
    distribution_for_show: {"normalisation"},
    hint_gated_by_the_target: {"causality", "normalisation"},
    bias_from_the_scored_positions: {"causality", "normalisation"},
    mixture_over_bytes: {"normalisation"},
    part_of_the_text: {"ledger", "normalisation"},
}


@pytest.mark.parametrize("specimen", LEGAL)
def test_a_legal_scorer_passes_every_probe(specimen: Specimen) -> None:
    assert violations(specimen) == {"ledger": [], "causality": [], "normalisation": []}


@pytest.mark.parametrize("specimen", CAUGHT)
def test_a_defect_is_caught_by_its_probes_alone(specimen: Specimen) -> None:
    assert {name for name, found in violations(specimen).items() if found} == CAUGHT[specimen]


def test_violations_name_the_place_and_the_amount() -> None:
    assert (
        "were to be trained on by 'warm-up', but target 80"
        in violations(warm_up_on_validation_text)["ledger"][0]
    )
    assert "already graded by 'first grading'" in violations(score_train_and_score_again)["ledger"][0]
    sums = [text for text in violations(cached_gold_tokens)["normalisation"] if "add up to" in text]
    assert sums and all(float(text.split()[-1]) > 2 for text in sums)


# Bytes: 25 to 29.


@pytest.fixture(scope="module")
def pieces() -> Vocabulary:
    return Vocabulary(tiny_tokenizer(), "tiny")


def encoded(texts: list[str], vocabulary: Vocabulary) -> np.ndarray:
    return np.array([token for text in texts for token in (vocabulary.bos_id, *vocabulary.encode_text(text))])


TEXTS = [*(tiny_text(seed) for seed in range(6)), "Ünïcödé 🙂 straße, ꙮ!"]
Counter = Callable[[np.ndarray, np.ndarray], np.ndarray]


def by_piece(vocabulary: Vocabulary, count: Callable[[str], int]) -> Counter:
    """Counts bytes piece by piece, with one more for a marked space unless a document starts there."""
    counts_V = np.array([count(vocabulary.piece(token)) for token in range(vocabulary.size)])
    marked_V = np.array([vocabulary.piece(token).startswith(SPACE_MARK) for token in range(vocabulary.size)])

    def count_bytes(previous: np.ndarray, targets: np.ndarray) -> np.ndarray:
        spaces = marked_V[targets] & (previous != vocabulary.bos_id)
        return np.where(targets == vocabulary.bos_id, 0, counts_V[targets] + spaces)

    return count_bytes


def is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x")


def rest(piece: str) -> int:
    return 1 if is_byte(piece) else len(piece.removeprefix(SPACE_MARK).encode())


BYTE_DEFECTS = {
    "25, #1719: the space is in the piece and added again": lambda p: rest(p) + p.startswith(SPACE_MARK),
    "26, #1143: a byte piece decodes alone to U+FFFD, three bytes": lambda p: 3 if is_byte(p) else rest(p),
    "27, #897: the mark itself is counted, three bytes": lambda p: rest(p) + 3 * p.startswith(SPACE_MARK),
}


def test_a_sound_count_of_bytes_passes(pieces: Vocabulary) -> None:
    tokens = encoded(TEXTS, pieces)
    stated = sum(len(text.encode()) for text in TEXTS)
    for count_bytes in (pieces.count_bytes, by_piece(pieces, rest)):
        assert probe_bytes(count_bytes, pieces.decode_tokens, tokens, pieces.bos_id, stated).passed


@pytest.mark.parametrize("defect", BYTE_DEFECTS)
def test_a_wrong_count_of_bytes_is_caught(defect: str, pieces: Vocabulary) -> None:
    tokens = encoded(TEXTS, pieces)
    stated = sum(len(text.encode()) for text in TEXTS)
    count_bytes = by_piece(pieces, BYTE_DEFECTS[defect])
    assert not probe_bytes(count_bytes, pieces.decode_tokens, tokens, pieces.bos_id, stated).passed


def test_bytes_of_the_transformed_text_are_caught_and_those_of_the_original_pass(pieces: Vocabulary) -> None:
    """28; #2071: CaseOps marks capitals; its marks are no bytes of the text."""

    def transform(text: str) -> str:
        return "".join(f"^{letter.lower()}" if letter.isupper() else letter for letter in text)

    def restore(text: str) -> str:
        first, *others = text.split("^")
        return first + "".join(part[:1].upper() + part[1:] for part in others)

    texts = [text for text in TEXTS if restore(transform(text)) == text]
    tokens = encoded([transform(text) for text in texts], pieces)
    stated = sum(len(text.encode()) for text in texts)
    original = by_piece(pieces, lambda piece: rest(piece) - piece.count("^") - (piece == "<0x5E>"))
    probes = {
        name: probe_bytes(
            count, lambda ids: restore(pieces.decode_tokens(ids)), tokens, pieces.bos_id, stated
        )
        for name, count in (("transformed", pieces.count_bytes), ("original", original))
    }
    assert not probes["transformed"].passed
    assert probes["original"].passed


def test_a_lossy_normalisation_is_caught(pieces: Vocabulary) -> None:
    """29; #1578, #1604: casefolding changes how many bytes the text has."""
    stated = sum(len(text.encode()) for text in TEXTS)
    folded = encoded([text.casefold().replace(" ꙮ", "") for text in TEXTS], pieces)
    report = probe_bytes(pieces.count_bytes, pieces.decode_tokens, folded, pieces.bos_id, stated)
    assert "the manifest says" in report.violations[-1]


# The text: 31 to 33.


def test_training_documents_among_the_validation_documents_are_refused(tmp_path: Path) -> None:
    """31; #2127: 40,000 documents in both."""
    write_tiny_dataset(tmp_path, tiny_tokenizer())
    manifest = Manifest.load(tmp_path)
    train = next(file for file in manifest.files if file.split == "train")
    val = next(file for file in manifest.files if file.split == "val")
    overlapping = dataclasses.replace(train, first_document=val.last_document)
    dataclasses.replace(manifest, files=(val, overlapping)).save(tmp_path)
    with pytest.raises(DataError, match="are in both"):
        open_dataset(tmp_path)


def test_validation_text_in_another_order_is_refused(tmp_path: Path) -> None:
    """32; #2109: rebuilt in parallel, in another order."""
    write_tiny_dataset(tmp_path, tiny_tokenizer())
    path = tmp_path / "fineweb_val_000000.bin"
    tokens = np.array(read_shard(path))
    second = int(np.flatnonzero(tokens == 1)[1])
    write_shard(path, np.concatenate((tokens[second:], tokens[:second])))
    with pytest.raises(DataError, match="sha256"):
        open_dataset(tmp_path).validation_tokens(StageClock())


@pytest.mark.parametrize("phase", ["warm-up", "train", "calibrate", "pack"])
def test_validation_text_before_the_score_is_refused(tmp_path: Path, phase: str) -> None:
    """33; #593, #728, #1530: calibrating, or warming up, on it."""
    write_tiny_dataset(tmp_path, tiny_tokenizer())
    clock = StageClock()
    with clock.stage(phase), pytest.raises(PhaseError, match=phase):
        open_dataset(tmp_path).validation_tokens(clock)


# Time and document starts: 34, 35 and 38.


@pytest.mark.parametrize(
    ("train_seconds", "eval_seconds", "what"), [(601.2, 90.0, "training"), (599.0, 688.0, "scoring")]
)
def test_more_than_ten_minutes_are_refused(train_seconds: float, eval_seconds: float, what: str) -> None:
    """34 and 35; #1908, #1972."""
    results = SimpleNamespace(partial=False, train_seconds=train_seconds, eval_seconds=eval_seconds)
    run = SimpleNamespace(folder="run", results=results, audit={"passed": True})
    with pytest.raises(EntryError, match=f"{what} took"):
        check_track(run, "track_10min_16mb")


def test_ten_minutes_are_accepted() -> None:
    results = SimpleNamespace(partial=False, train_seconds=599.6, eval_seconds=600.0)
    check_track(SimpleNamespace(folder="run", results=results, audit={"passed": True}), "track_10min_16mb")


def test_a_smear_across_documents_is_caught_and_a_masked_one_passes() -> None:
    """38; #1797, mended in #1851."""
    embedding_VD = np.random.default_rng(0).standard_normal((VOCAB_SIZE, 4))
    starts = (np.flatnonzero(TOKENS == BOS_ID)[1:] - 1).tolist()

    def smear(tokens: np.ndarray, masked: bool) -> np.ndarray:
        x_TD = embedding_VD[tokens]
        share_T1 = 0.5 * (tokens[1:] != BOS_ID if masked else np.ones(len(tokens) - 1))[:, None]
        return np.concatenate((x_TD[:1], x_TD[1:] + share_T1 * (x_TD[:-1] - x_TD[1:])))

    asked = Probing(TOKENS, starts, VOCAB_SIZE, BOS_ID)
    assert not probe_document_start(lambda tokens: smear(tokens, False), asked).passed
    assert probe_document_start(lambda tokens: smear(tokens, True), asked).passed
