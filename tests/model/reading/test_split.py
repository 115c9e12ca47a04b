"""Split readers: equal to transformers' network under a mask, whatever is kept or recomputed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from model.audit.golds import read_golds
from model.checkpoint import CheckpointError, LocalFolder
from model.reading import batching, split
from model.reading.batching import Batch, assemble, plan_windows
from model.reading.decoding import Decoding
from model.reading.pairs import cut_pairs
from model.reading.progress import shares, working_on
from model.reading.reader import CheckpointReader
from model.reading.span_reader import SpanReader
from model.reading.split import LEAST_SHARE, SplitNetwork, of_similar_length
from model.reading.tokenizer import Tokenizer, TokenizerError
from model.reading.windows import WindowLimits, Windows, cut_windows
from model.settings import SettingError
from tests.checkpoints import ARCHITECTURES, build_bert
from tests.model.predicted import decode, decode_and_measure
from tests.model.split import (
    FAMILIES,
    MOST_QUESTION,
    build_split,
    by_transformers,
    cut_all,
    with_settings,
)
from tests.model.texts import TRICKY_CONTEXTS, long_context

QUESTIONS = [
    "Who waved?",
    "What is the capital of Japan, and how many people live there?",
    "Where does the cafe open?",
    "Why? " * 30,  # cut to MOST_QUESTION tokens
]
CONTEXTS = [*TRICKY_CONTEXTS.values(), "Ada waved.", long_context(900)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        kind.name: build_split(kind, tmp_path_factory.mktemp(kind.name), lower=1)
        for kind in FAMILIES
    }


@pytest.fixture(params=[kind.name for kind in FAMILIES])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def reader_of(folder: Path, **settings: Any) -> CheckpointReader:
    return CheckpointReader(LocalFolder(str(folder)), device="cpu", **settings)


def network_of(reader: CheckpointReader) -> SplitNetwork:
    found = reader._network.split
    assert found is not None
    return found


def read(reader: CheckpointReader, windows: Windows, chosen: np.ndarray) -> torch.Tensor:
    """Return start and end logits, [2, B, L]."""
    with torch.inference_mode():
        return torch.stack(reader.logits(assemble(windows, chosen)))


def check_near(found: torch.Tensor, expected: torch.Tensor, batch: Batch) -> None:
    """Check logits, [2, B, L], to 1e-5 of the largest."""
    found, expected = found[:, batch.attention], expected[:, batch.attention]
    assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.abs().max())))


def check_equal(reader: CheckpointReader, windows: Windows, lower: int = 1) -> None:
    """Check random batches of different lengths, some of whose states are already kept."""
    order = np.random.default_rng(0).permutation(len(windows))
    for chosen in np.array_split(order, 5):
        batch = assemble(windows, chosen)
        found = read(reader, windows, chosen)
        check_near(found, by_transformers(reader.folder, batch, lower), batch)


def test_logits_are_those_of_the_whole_network_under_a_mask(folder: Path) -> None:
    reader = reader_of(folder)
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    assert windows.counts.max() > 3
    check_equal(reader, windows)


def test_more_lower_layers_than_one(tmp_path: Path) -> None:
    kind = replace(FAMILIES[0], sizes={"num_hidden_layers": 4, "max_position_embeddings": 512})
    reader = reader_of(build_split(kind, tmp_path, lower=3))
    check_equal(reader, cut_all(reader, QUESTIONS, CONTEXTS), lower=3)


def test_the_split_changes_the_logits(tmp_path: Path) -> None:
    """The comparison above would notice a lower layer that reads the pair."""
    split_reader = reader_of(build_split(FAMILIES[0], tmp_path / "split"))
    windows = cut_all(split_reader, QUESTIONS[:2], CONTEXTS)
    chosen = np.arange(8)
    expected = by_transformers(split_reader.folder, assemble(windows, chosen), lower=0)
    real = assemble(windows, chosen).attention
    found = read(split_reader, windows, chosen)
    assert (found - expected)[:, real].abs().max() > 0.1


def test_the_reference_is_the_same_network(folder: Path) -> None:
    reader = reader_of(folder)
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    batch = assemble(windows, np.arange(len(windows)))
    reader.load()
    with torch.inference_mode():
        whole = torch.stack(network_of(reader).read_whole(batch))
    found = read(reader, windows, np.arange(len(windows)))
    check_near(found, whole, batch)


def test_bfloat16_differs_by_rounding(folder: Path) -> None:
    reader = reader_of(folder, dtype="bfloat16")
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    batch = assemble(windows, np.arange(len(windows)))
    found, real = read(reader, windows, np.arange(len(windows))), batch.attention
    expected = by_transformers(folder, batch, 1)
    difference = (found - expected)[:, real].abs()
    assert difference.mean() < 0.02 * expected[:, real].abs().max()


# What is kept


def counted(reader: CheckpointReader, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list that grows by (parts, position) with every call of the lower layers."""
    network = network_of(reader)
    original, calls = network._read, []

    def read_parts(parts: Any, position: int) -> Any:
        calls.append((len(parts.row), position))
        return original(parts, position)

    monkeypatch.setattr(network, "_read", read_parts)
    return calls


def spans(reader: CheckpointReader, windows: Windows, batch_tokens: int = 512) -> Any:
    decoded = decode(reader, windows, Decoding(n_best=3, max_answer_length=6), batch_tokens)
    assert not decoded.failures
    return decoded.spans


def test_every_text_is_read_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(folders["bert"])
    reader.load()
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    calls = counted(reader, monkeypatch)
    spans(reader, windows)
    of_questions = sum(parts for parts, position in calls if position == 0)
    of_passages = sum(parts for parts, position in calls if position)
    assert of_questions == len(QUESTIONS)
    assert of_passages == len(windows) // len(QUESTIONS)
    spans(reader, windows)  # all of it is still there
    assert sum(parts for parts, _ in calls) == of_questions + of_passages


def test_texts_are_projected_for_the_first_upper_layer_once(folder: Path) -> None:
    reader = reader_of(folder)
    reader.load()
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    projected: list[int] = []
    for projection in network_of(reader)._layered._projections:
        projection.linear.register_forward_hook(
            lambda _, given, __: projected.append(given[0].shape[:-1].numel())
        )
    spans(reader, windows)
    batch = assemble(windows, np.arange(len(windows)))
    middle, stop = batch.context_start, batch.attention.sum(1)
    rows = list(zip(batch.input_ids.tolist(), middle.tolist(), stop.tolist(), strict=True))
    texts = {tuple(ids[:middle]) for ids, middle, _ in rows}
    texts |= {tuple(ids[middle:stop]) for ids, middle, stop in rows}
    assert len(texts) == len(QUESTIONS) + len(windows) // len(QUESTIONS)
    assert sum(projected) == 3 * sum(map(len, texts))  # queries, keys and values


def test_without_memory_everything_is_recomputed_with_the_same_answers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(folders["bert"])
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    expected = spans(reader, windows)
    monkeypatch.setattr(split, "PASSAGE_BYTES", 5000)
    monkeypatch.setattr(split, "QUESTION_BYTES", 0)
    small = reader_of(folders["bert"])
    small.load()
    calls = counted(small, monkeypatch)
    found = spans(small, windows)
    assert sum(parts for parts, position in calls if position) > len(windows) // len(QUESTIONS)
    assert network_of(small)._passages._bytes <= 5000
    assert not network_of(small)._questions._states
    np.testing.assert_array_equal(found.start, expected.start)
    np.testing.assert_allclose(found.log_mass, expected.log_mass, rtol=1e-4)


def test_lanes_read_what_one_thread_reads(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_reader, reader = reader_of(folders["bert"]), reader_of(folders["bert"])
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    expected = spans(expected_reader, windows, 256)
    reader.load()
    calls = counted(reader, monkeypatch)
    monkeypatch.setattr(CheckpointReader, "lanes", lambda _: 4)
    found = spans(reader, windows, 256)
    np.testing.assert_array_equal(found.start, expected.start)
    # No two lanes computed the same text.
    assert sum(parts for parts, position in calls if position) == len(windows) // len(QUESTIONS)


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_window_that_fails_takes_no_other_along(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    reader = reader_of(folders["bert"])
    reader.load()
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    begin = windows.passages.bounds[2]
    poison = torch.from_numpy(windows.passages.ids[begin : begin + 8])
    network, embed = network_of(reader), network_of(reader)._layered.embed

    def failing(ids: torch.Tensor, types: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if (positions[0, 0] == network.passage_position) and (ids[:, :8] == poison).all(1).any():
            raise RuntimeError("poison")
        return embed(ids, types, positions)

    monkeypatch.setattr(network._layered, "embed", failing)
    monkeypatch.setattr(CheckpointReader, "lanes", lambda _: lanes)
    failures = decode(reader, windows, Decoding(), 512).failures
    assert set(windows.pair_passage[list(failures)].tolist()) == {2}
    assert len(failures) == len(QUESTIONS)
    assert set(failures.values()) == {("model_error", "RuntimeError: poison")}


def test_when_memory_runs_out_nothing_is_kept_and_the_answers_are_the_same(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(folders["bert"])
    windows = cut_all(reader, QUESTIONS, CONTEXTS)
    expected = spans(reader, windows)
    network = network_of(reader)
    kept_before = network._passages._bytes
    run, full, kept = network._layered.run, [True], []

    def run_out(layers: Any, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if layers is network._layered.upper and full:
            full.clear()
            raise torch.OutOfMemoryError("full")
        kept.append(network._passages._bytes)
        return run(layers, hidden, mask)

    monkeypatch.setattr(network._layered, "run", run_out)
    found = spans(reader, windows)
    assert kept_before > 0
    assert kept[0] == 0
    np.testing.assert_array_equal(found.start, expected.start)


def test_a_state_that_is_not_finite_stays_in_its_row(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(folders["bert"])
    windows = cut_all(reader, QUESTIONS[:2], ["Ben met Ada on the pier.", "Ada waved."])
    chosen = np.array([0, 2])  # the first question of both
    expected = read(reader, windows, chosen)
    joined = network_of(reader)._joined

    def spoiled(questions: Any, passages: Any, *layout: Any) -> torch.Tensor:
        first, *others = passages.distinct
        states = [torch.full_like(first, torch.nan), *others]
        return joined(questions, replace(passages, distinct=states), *layout)

    monkeypatch.setattr(network_of(reader), "_joined", spoiled)
    found, real = read(reader, windows, chosen), assemble(windows, chosen).attention
    assert found[:, 0].isnan().all()
    assert not real[1].all()  # the second row has padding
    assert_close(found[:, 1, real[1]], expected[:, 1, real[1]])


def test_batches_hold_one_group_of_passages_after_the_other(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = cut_all(reader_of(folders["bert"]), QUESTIONS, CONTEXTS)
    monkeypatch.setattr(batching, "GROUP_TOKENS", 100)
    batches = plan_windows(windows, 256)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(windows)))
    # A slice of a passage is in the batches of one group: those between its first and its last hold
    # slices of at most 100 tokens and one slice more.
    key = windows.pair_passage[windows.pair] * 1000 + windows.index
    batch_of = np.empty(len(windows), int)
    for number, batch in enumerate(batches):
        batch_of[batch] = number
    tokens = windows.stop - windows.start
    for slice_ in np.unique(key):
        own = batch_of[key == slice_]
        between = np.concatenate(batches[own.min() : own.max() + 1])
        _, first = np.unique(key[between], return_index=True)
        assert tokens[between[first]].sum() <= 100 + tokens.max()


def cut_asked(
    tokenizer: Tokenizer, contexts: list[str], asked: list[int], max_length: int
) -> Windows:
    """Cut windows of the contexts `asked`, each time with the next question."""
    return cut_windows(
        tokenizer.format,
        tokenizer.passages(contexts),
        tokenizer.questions(QUESTIONS),
        np.array(asked),
        np.arange(len(asked)) % len(QUESTIONS),
        WindowLimits(max_length, 8, MOST_QUESTION, 99),
    )


def test_passages_that_are_asked_once_are_read_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(folder)
    reader.load()
    contexts = [long_context(size) for size in (300, 40, 500, 200, 60)]
    windows = cut_asked(reader.tokenizer(), contexts, [0, 1, 2, 0, 3, 4, 2, 2], 48)
    calls = counted(reader, monkeypatch)
    whole = []
    for chosen in plan_windows(windows, 512):
        batch = assemble(windows, chosen)
        calls.clear()
        found = read(reader, windows, chosen)
        check_near(found, by_transformers(folder, batch, 1), batch)
        assert not (batch.asked_once and calls)
        whole += [batch.asked_once] * len(chosen)
    once = windows.counts[[1, 4, 5]].sum()  # of passages 1, 3 and 4
    assert whole == [False] * (len(windows) - once) + [True] * once
    check_equal(reader, windows)  # batches of both kinds of passages
    with working_on("a part", len(windows)):
        spans(reader, windows)
        assert shares() == {"a part": pytest.approx(1.0)}


def test_slices_of_similar_length_are_grouped_and_those_that_are_read_once_come_last(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = reader_of(folders["bert"]).tokenizer()
    monkeypatch.setattr(batching, "GROUP_TOKENS", 100)
    contexts = [long_context(size) for size in (40, 150, 60, 170, 50, 160)]
    asked = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]  # 4 and 5 once
    windows = cut_asked(tokenizer, contexts, asked, 200)
    batches = plan_windows(windows, 10**6)  # one batch per group
    read = [set(windows.pair_passage[windows.pair[batch]].tolist()) for batch in batches]
    assert read[-1] == {4, 5}
    tokens = [(windows.stop - windows.start)[batch] for batch in batches[:-1]]
    for longer, shorter in itertools.pairwise(tokens):
        assert longer.min() >= shorter.max()
    assert set().union(*read[:-1]) == {0, 1, 2, 3}
    assert len(read) > 2


@pytest.mark.parametrize("seed", range(5))
def test_texts_that_are_read_together_have_little_padding(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 300, 40)
    groups = of_similar_length(lengths)
    assert sorted(np.concatenate(groups).tolist()) == list(range(40))
    for group, following in zip(groups, [*groups[1:], []], strict=True):
        assert lengths[group].min() >= LEAST_SHARE * lengths[group].max()
        assert all(lengths[following] < LEAST_SHARE * lengths[group].max())


class Reference:
    """Reads with all layers over whole windows."""

    def __init__(self, reader: CheckpointReader):
        reader.load()
        self.network, self.tokenizer = network_of(reader), reader.tokenizer

    def load(self) -> None:
        """Do nothing: the network is loaded."""

    def lanes(self) -> int:
        return 1

    def logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.network.read_whole(batch)


def test_observers_see_the_logits_of_the_reference(folder: Path) -> None:
    """Spans and losses of golds, in windows of several passages, with the null option."""
    reader, contexts = reader_of(folder), [long_context(900), "Ada waved.", long_context(300)]
    rows = [(question, context) for context in contexts for question in QUESTIONS[:3]]
    pairs = cut_pairs(*zip(*rows, strict=True), reader.tokenizer(), WindowLimits(48, 8, 12, 99))
    answers = [{"text": [context[:5]], "answer_start": [0]} for _, context in rows]
    golds = read_golds(answers, pairs.contexts, pairs.row_pair, pairs.windows)
    decoding = Decoding(n_best=3, max_answer_length=6, null=True)
    found, expected = (
        decode_and_measure(each, pairs.windows, decoding, 512, golds)
        for each in (reader, Reference(reader))
    )
    for field in fields(found[1].losses):
        ours, theirs = (getattr(each[1].losses, field.name) for each in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=field.name)
    np.testing.assert_array_equal(found[0].spans.start, expected[0].spans.start)
    np.testing.assert_array_equal(found[0].spans.end, expected[0].spans.end)


# What is refused


def test_networks_of_other_families_are_refused_by_name(tmp_path: Path) -> None:
    albert = next(kind for kind in ARCHITECTURES if kind.name == "albert")
    folder = with_settings(albert.build(tmp_path), split=1, passage_position=20)
    with pytest.raises(CheckpointError, match="layers of a albert network can't be run one by one"):
        reader_of(folder).load()


def test_a_context_before_the_question_is_refused(tmp_path: Path) -> None:
    left = next(kind for kind in ARCHITECTURES if kind.name == "bert-left-padding")
    folder = with_settings(left.build(tmp_path), split=1, passage_position=20)
    with pytest.raises(TokenizerError, match="puts the context before the question"):
        reader_of(folder).tokenizer()


@pytest.mark.parametrize("lower", [2, 7])
def test_the_upper_layers_must_be_at_least_one(tmp_path: Path, lower: int) -> None:
    folder = with_settings(build_bert(tmp_path), split=lower, passage_position=20)
    with pytest.raises(CheckpointError, match="has 2 layers, of which 1 to 1 can be"):
        reader_of(folder).load()


def test_a_position_within_the_question_is_refused(tmp_path: Path) -> None:
    folder = with_settings(build_bert(tmp_path), split=1, passage_position=2)
    with pytest.raises(TokenizerError, match=r"passage_position=2: .* up to 3 at least"):
        reader_of(folder).tokenizer()


def test_lower_layers_that_read_otherwise_are_refused(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = SplitNetwork._read
    monkeypatch.setattr(
        SplitNetwork,
        "_read",
        lambda network, parts, position: original(network, parts, position + 1),
    )
    with pytest.raises(CheckpointError, match="apart with other results than together"):
        reader_of(folders["bert"]).load()


# Answers


def test_limits_leave_room_for_the_longest_question(folders: dict[str, Path]) -> None:
    folder = str(folders["bert"])
    assert SpanReader.load(folder).limits.max_question == MOST_QUESTION
    assert SpanReader.load(folder, max_question=5).limits.max_question == 5
    with pytest.raises(SettingError, match=r"max_question=13: .* positions for 12 tokens"):
        SpanReader.load(folder, max_question=13)
    # The positions between the longest question and the passage can't be used.
    assert SpanReader.load(folder, max_length=512).limits.max_length == 512
    with pytest.raises(SettingError, match="max_length=512: the model takes at most 505 tokens"):
        SpanReader.load(folder, max_length=512, max_question=5)
    longest = SpanReader.load(folder, max_length=505, max_question=5)
    assert longest.answer("Who?", long_context(8000)).status == "answered"


def test_a_list_answers_what_single_questions_do(folder: Path) -> None:
    reader = SpanReader.load(
        str(folder), max_length=48, overlap=8, max_answer_length=6, null="on", dtype="float32"
    )
    context = long_context(900)
    alone = [reader.answer(question, context) for question in QUESTIONS]
    listed = reader.answer(QUESTIONS, context)
    assert reader.answer(questions=QUESTIONS, context=context) == listed
    assert [answer.answer_text for answer in listed] == [answer.answer_text for answer in alone]
    for one, other in zip(alone, listed, strict=True):
        assert one.num_windows == other.num_windows == alone[0].num_windows
        assert one.null_probability == pytest.approx(other.null_probability, abs=1e-4)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)
    assert listed[3].question_tokens_cut
