"""Loading: check a checkpoint, and resolve the settings that depend on it."""

from __future__ import annotations

import logging
from dataclasses import replace

from model.checkpoint import CheckpointError, Location, Settings, digest, read_settings
from model.reading.decoding import Decoding
from model.reading.reader import (
    CheckpointReader,
    ModelSettings,
    resolve_device,
    resolve_dtype,
    shared,
)
from model.reading.windows import WindowLimits, default_max_question
from model.settings import PRECISION, SettingError

_log = logging.getLogger("spanmill")

_TOKENIZER_PROCESSES = 2
"""On CUDA: one for each of the two threads that the in-process runner then has."""


def load_reader(location: Location, settings: ModelSettings) -> CheckpointReader:
    """Return the reader of a location, after loading its network to check that it can be loaded.

    Raises CheckpointError, TokenizerError, or SettingError for a device or dtype that is missing.
    """
    folder = location.folder()
    folder_digest = digest(folder)
    # Nothing compiles a network in int8.
    tolerates_int8 = read_settings(folder).int8 and not settings.compile
    try:
        dtype = resolve_dtype(settings.dtype, settings.device, tolerates_int8)
        device = resolve_device(settings.device)
    except (ValueError, RuntimeError) as error:
        raise SettingError(f"device={settings.device}: {error}") from error
    processes = settings.tokenizer_processes
    if processes is None:
        processes = _TOKENIZER_PROCESSES if device.type == "cuda" else 0
    reader = shared(
        CheckpointReader(
            location=location.pinned(folder, folder_digest),
            digest=folder_digest,
            device=settings.device,
            dtype=dtype,
            compile=settings.compile,
            tokenizer_processes=processes,
        )
    )
    try:
        reader.load()
    except CheckpointError as error:
        # Some networks can't compute in bfloat16 or int8 although the device can.
        if settings.dtype != "auto" or dtype == "float32":
            raise
        _log.info("dtype auto: %s; trying float32", error)
        reader = shared(replace(reader, dtype="float32"))
        reader.load()
    # A network that takes another token for padding would attend to padding as to text.
    tokenizer = reader.tokenizer()
    if None not in (tokenizer.padding, reader.padding()) and tokenizer.padding != reader.padding():
        raise CheckpointError(
            f"{folder}: its tokenizer pads with token {tokenizer.padding}, but the config of the "
            f"network says pad_token_id {reader.padding()}: they do not match"
        )
    return reader


def fit_limits(
    reader: CheckpointReader, limits: WindowLimits, max_answer_length: int
) -> WindowLimits:
    """Return limits that the model supports and that give every admissible answer a window.

    Raises SettingError if the limits asked for are impossible.
    """
    # A window has at most as many tokens as tokenizer and network allow.
    tokenizer = reader.tokenizer()
    special = tokenizer.format.special_tokens
    capacity = min(tokenizer.max_length, reader.positions() or tokenizer.max_length)
    question = limits.max_question or default_max_question(tokenizer.format)
    if (most := tokenizer.format.most_question) is not None:
        if question > most:
            raise SettingError(
                f"max_question={question}: the split reader has positions for {most} tokens"
            )
        # The passage's positions begin behind the longest question that there are positions for.
        capacity -= most - question
    limits = replace(limits, max_question=question)
    length = limits.max_length or min(WindowLimits().max_length, capacity)
    if length > capacity:
        raise SettingError(f"max_length={length}: the model takes at most {capacity} tokens")

    # The overlap must be at least `least`, so that every answer is whole in some window, and below
    # the room for context tokens, so that windows advance.
    least = max_answer_length - 1
    room = length - limits.max_question - special
    overlap = limits.overlap
    if room <= least and (overlap is None or overlap >= least):
        wanted = limits.max_question + special + max_answer_length
        longer = f"a max_length of {wanted} or more, or " if wanted <= capacity else ""
        raise SettingError(
            f"max_length={length}: max_question={limits.max_question} and {special} special tokens "
            f"leave {max(room, 0)} tokens for the context, so that overlap must be below "
            f"{max(room, 0)}, but at least max_answer_length - 1 = {least}: give {longer}a lower "
            "max_question or max_answer_length"
        )
    if overlap is None:
        overlap = max(least, min(WindowLimits().overlap, length // 3, room - 1))
    if overlap < least:
        raise SettingError(
            f"overlap={overlap}: must be at least max_answer_length - 1 = {least}, or some answers "
            "fit in no window"
        )
    if room <= overlap:
        raise SettingError(
            f"overlap={overlap}: must be below {max(room, 0)}, the context tokens that fit into a "
            f"window with the longest question: max_length={length} less "
            f"max_question={limits.max_question} less {special} special tokens"
        )
    return replace(limits, max_length=length, overlap=overlap)


def resolve_min_probability(
    given: float | str, own: Settings, decoding: Decoding, prior: float
) -> float:
    """Return a threshold on the probability as a number: precision:X is what a checkpoint stores.

    own       the checkpoint's settings
    decoding  with the null option resolved
    prior     weight of the window prior

    Raises SettingError for a precision for which the checkpoint stores no threshold, or if the null
    option or the prior is not as it was when the threshold was fitted.
    """
    if not isinstance(given, str):
        return given
    precision = given.removeprefix(PRECISION)
    stored = own.min_probability(float(precision))
    if stored is None:
        has = ", ".join(own.precision_thresholds)
        raise SettingError(
            f"min_probability={given}: the checkpoint stores a threshold for "
            f"{has or 'no precision'}: python -m model.calibrate --precision {precision} --model "
            "DIR --data FILES fits one"
        )
    threshold = decoding.null_score_diff_threshold
    if decoding.null != own.null or (own.null and threshold != own.null_threshold):
        option = f"on, threshold {own.null_threshold:g}" if own.null else "off"
        raise SettingError(
            f"min_probability={given}: the checkpoint's threshold is for the null option {option}: "
            "leave out --null and --null_score_diff_threshold, or give a number"
        )
    if prior != own.window_prior:
        raise SettingError(
            f"min_probability={given}: the checkpoint's threshold is for a window prior of weight "
            f"{own.window_prior:g}: leave out --prior, or give a number"
        )
    return stored
