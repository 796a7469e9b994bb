"""Sequences of brackets: k-Dyck, in which they nest, and its control, in which they only balance.

The language of Shinnick et al., "Can You Learn to See Without Images? Procedural Warm-Up for Vision Transformers"
(arXiv 2511.13945). A token is PAD, MASK, one of k opening or one of k closing brackets. The paper does not say how
sequences are drawn; the rule here is that of public code for it, as read and never run.
"""

import hashlib
from dataclasses import astuple, dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from fracgen.shards.settings import Setting, check_settings
from fracgen.train.seeding import uniforms

Tokens = npt.NDArray[np.int64]
PAD, MASK, FIRST = 0, 1, 2
"""FIRST: the first opening bracket; bracket type t opens as FIRST + t and closes as FIRST + k + t."""
NO_TARGET = -100
"""Where nothing is to be predicted; torch's cross entropy passes over it."""
RULE = 1
"""Of the draws: another one is another set of sequences."""


@dataclass(frozen=True, kw_only=True)
class Brackets:
    """Sequences of brackets, and which of them are hidden."""

    language: Annotated[
        Literal["dyck", "shuffle-dyck"],
        Setting(
            "dyck: brackets nest, so that each closing one follows from the rest. shuffle-dyck: any open bracket may "
            "close next, the control.",
            panel="Data",
        ),
    ] = "dyck"
    types: Annotated[
        int, Setting("Number of types of brackets, the k of k-Dyck.", at_least=1, at_most=1_000_000, panel="Data")
    ] = 64
    open_probability: Annotated[
        float,
        Setting("Probability that a bracket is opened where one may be opened or closed.", at_least=0, at_most=1),
    ] = 0.6
    mask_ratio: Annotated[
        float, Setting("Share of the closing brackets that are hidden and predicted.", above=0, at_most=1)
    ] = 0.5

    def __post_init__(self) -> None:
        """Raise UsageError for values out of range."""
        check_settings(self)

    def __str__(self) -> str:
        """One line for the screen and for cards."""
        return f"{'k-Dyck' if self.language == 'dyck' else 'shuffle-Dyck'}, {self.types} types of brackets"

    def fingerprint(self, length: int) -> str:
        """sha256 (hex) of what determines the sequences of a seed."""
        return hashlib.sha256(repr(("brackets", RULE, length, astuple(self))).encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        """Number of tokens: PAD, MASK, and two for each type of brackets."""
        return FIRST + 2 * self.types


def draw(settings: Brackets, length: int, *, seed: int, positions: Tokens) -> tuple[Tokens, Tokens]:
    """Sequences with hidden brackets, and what is hidden: tokens and targets, (len(positions), length) int64 each.

    length: of a sequence, at least 2; of an odd one the last token is PAD (our choice). positions: numbers of the
    sequences, counted from the start of the run, int64 (B,): row i depends on seed, settings and positions[i] alone.
    targets: the tokens under MASK, and NO_TARGET elsewhere. Time: some 8 numpy calls for each place of a sequence.
    """
    draws = uniforms(seed, "brackets", positions, 3 * length)
    sequences = nest(settings, draws[:, :length], draws[:, length : 2 * length])
    is_hidden = (sequences >= FIRST + settings.types) & (draws[:, 2 * length :] < settings.mask_ratio)
    return np.where(is_hidden, MASK, sequences), np.where(is_hidden, sequences, NO_TARGET)


def nest(settings: Brackets, open_draws: npt.NDArray[np.float64], type_draws: npt.NDArray[np.float64]) -> Tokens:
    """Balanced sequences, (B, N) int64, from uniform draws in [0, 1), (B, N) each, of which each place uses its own.

    From left to right a bracket opens where none is open, and, while enough places are left to close all, with
    `open_probability`; else one closes. type_draws: the type of an opening bracket, or, in shuffle-dyck, which of the
    open ones closes.
    """
    num_sequences, length = open_draws.shape
    even = length - length % 2
    tokens = np.full((num_sequences, length), PAD, np.int64)
    stack = np.zeros((num_sequences, even // 2 + 1), np.int64)  # types of the open brackets; the last place is spare
    depth, rows = np.zeros(num_sequences, np.int64), np.arange(num_sequences)
    wants_to_open = open_draws < settings.open_probability
    types = (type_draws * settings.types).astype(np.int64)
    for place in range(even):
        opens = (depth == 0) | (wants_to_open[:, place] & (depth < even - place))
        top = depth - 1  # -1, the spare place, where none is open
        closing = top
        if settings.language == "shuffle-dyck":
            closing = np.where(opens, top, (type_draws[:, place] * depth).astype(np.int64))
        kind = np.where(opens, types[:, place], stack[rows, closing])
        tokens[:, place] = kind + np.where(opens, FIRST, FIRST + settings.types)
        stack[rows, closing] = stack[rows, top]  # where one closes, the top takes its place
        stack[rows, np.where(opens, depth, -1)] = kind
        depth += np.where(opens, 1, -1)
    return tokens
