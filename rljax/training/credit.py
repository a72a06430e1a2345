"""What a run thinks of the tokens and steps of logged answers, ready to be shown.

The credit of an action is what it changes in the value,

    A_t = V(s_{t+1}) - V(s_t),    A_T = R - V(s_T) for the last,

so the credits of an answer add up to R - V(s_1). Where nothing else is rewarded and
beta is small it is the advantage of the action; what the divergence costs is beside it,
in the log-ratio. A step has the credit of its tokens, but for R - V(s_T): what no value
foresaw is luck or error of the value, not the doing of the last step, and is told by
itself. Where the value was learnt of steps or of whole answers, it is known where they
begin, and held until the next begins. A run without a value has log-ratios to tell of
alone: log pi - log pi_ref is what the policy itself has learnt of an action.
Shapes: T tokens of a text, M actions of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rljax.agents.offline import Reading
from rljax.data import steps
from rljax.text.tokenizer import Tokenizer
from rljax.types import GOOD, Episode

# How a column is named, and what it says, in the order they are offered.
COLUMNS = {
    "value": "V before the token",
    "advantage": "what the token changes in V, the last one up to the reward",
    "log_ratio": "log-probability less the reference's",
    "kl": "divergence from the reference before the token",
    "log_prob": "log-probability under the policy",
    "entropy": "entropy of the policy before the token",
}
SIGNED = ("advantage", "log_ratio")  # coloured to both sides of 0
_TAIL = 98.0  # percentile at which colours end


class Step(NamedTuple):
    """A step of an answer; a turn's words between two steps belong to none."""

    first: int  # index into the answer's tokens
    stop: int
    change: float  # sum of the column that credit is read from, R - V(s_T) left out
    start: float | None  # V before it; None without V


class Answer(NamedTuple):
    """A logged answer with what the run makes of it.

    Attributes:
      line: of the log.
      log: its file, where several were read.
      task: its problem.
      source: where the log has it from.
      reward: of the answer.
      prompt: text before the first action.
      tokens: texts of the tokens from the first action on, T' of them.
      ids: int32 [T'].
      action: bool [T'].
      columns: name -> float32 [T'], NaN where the token is no action.
      steps: in their order.
      surprise: R - V(s_T), what the value did not foresee; None without V.
    """

    line: int
    log: str
    task: str
    source: str
    reward: float
    prompt: str
    tokens: list[str]
    ids: np.ndarray
    action: np.ndarray
    columns: dict[str, np.ndarray]
    steps: list[Step]
    surprise: float | None


# episode -> bool [M], before which of its actions the value was learnt.
Known = Callable[[Episode], np.ndarray]


def each_token(episode: Episode) -> np.ndarray:
    """The value was learnt before every token."""
    return np.ones(int(np.sum(episode.action)), bool)


def each_step(episode: Episode) -> np.ndarray:
    """The value was learnt where steps begin."""
    return np.diff(episode.step[episode.action], prepend=-1) != 0


def each_answer(episode: Episode) -> np.ndarray:
    """The value was learnt before the first action."""
    return np.arange(int(np.sum(episode.action))) == 0


def advantages(value: np.ndarray, reward: float) -> np.ndarray:
    """What each action changes in the value.

    Args:
      value: float32 [M], before each action.
      reward: of the answer.

    Returns:
      float32 [M]; their sum is the reward less the first value.
    """
    after = np.append(value[1:], np.float32(reward))
    return (after - value).astype(np.float32)


def answer(
    episode: Episode,
    reading: Reading,
    tokenizer: Tokenizer,
    reference: bool,
    known: Known = each_token,
) -> Answer:
    """Puts tokens and numbers of one episode together.

    Args:
      episode: of the log.
      reading: of this episode alone, leaves [L] with L >= M; more is filling.
      tokenizer: of the policy.
      reference: whether the reading knows a reference policy.
      known: where its value was learnt.

    Raises:
      ValueError: if the reading is shorter than the episode's actions.
    """
    (said,) = np.nonzero(episode.action)
    if len(reading.log_prob) < len(said):
        raise ValueError(
            f"line {episode.line} has {len(said)} actions and a reading of "
            f"{len(reading.log_prob)}"
        )
    begin = int(said[0])
    found = _columns(episode, reading, known(episode), reference)
    columns = {}
    for name, values in found.items():
        wide = np.full(len(episode.ids) - begin, np.nan, np.float32)
        wide[said - begin] = values
        columns[name] = wide
    text, reach = steps.reaches(tokenizer, episode.ids, begin, len(episode.ids))
    cuts = [0, *map(int, reach)]
    prompt, _ = steps.reaches(tokenizer, episode.ids, 0, begin)
    return Answer(
        line=episode.line,
        log=episode.log,
        task=episode.task,
        source=episode.source,
        reward=episode.reward,
        prompt=prompt,
        tokens=[text[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)],
        ids=episode.ids[begin:],
        action=episode.action[begin:],
        columns=columns,
        steps=_steps(episode.step[begin:], columns),
        surprise=float(found["advantage"][-1]) if "advantage" in found else None,
    )


def credit_column(columns: Mapping[str, np.ndarray]) -> str:
    """The column that steps are ranked by: the value's change where there is a value.

    Args:
      columns: of an answer.
    """
    for name in ("advantage", "log_ratio"):
        if name in columns:
            return name
    return "log_prob"


def ranked(answers: Sequence[Answer]) -> list[tuple[int, int]]:
    """Steps of all answers, those that cost most first.

    Args:
      answers: any number.

    Returns:
      (index of the answer, index of the step in it), changes rising.
    """
    places = [(a, s) for a, one in enumerate(answers) for s in range(len(one.steps))]
    return sorted(places, key=lambda at: answers[at[0]].steps[at[1]].change)


def choose(log: Sequence[Episode], problems: int, each: int) -> list[list[int]]:
    """Which attempts to show: problems with right and wrong ones come first.

    Args:
      log: its episodes.
      problems: most of them that are shown.
      each: most right, and most wrong attempts at one of them.

    Returns:
      For each problem, in the order of the log within both groups, the places of its
      attempts in `log`: right ones, then wrong ones.
    """
    groups: dict[str, tuple[list[int], list[int]]] = {}
    for place, episode in enumerate(log):
        right, wrong = groups.setdefault(episode.task, ([], []))
        (right if episode.reward > GOOD else wrong).append(place)
    mixed = [group for group in groups.values() if all(group)]
    same = [group for group in groups.values() if not all(group)]
    return [
        [*right[:each], *wrong[:each]] for right, wrong in [*mixed, *same][:problems]
    ]


def scales(answers: Sequence[Answer]) -> dict[str, tuple[float, float]]:
    """Between which numbers the colours of each column lie.

    Signed columns reach as far below 0 as above, V from its lowest to its highest; the
    rest begin at 0 or end there. A few percent of the tokens lie outside and have the
    last colour.

    Args:
      answers: at least one.
    """
    found = {}
    for name in answers[0].columns:
        values = np.concatenate([one.columns[name] for one in answers])
        values = values[np.isfinite(values)]
        if not len(values):
            values = np.zeros(1, np.float32)
        if name in SIGNED:
            high = float(np.percentile(np.abs(values), _TAIL))
            found[name] = (-(high or 1.0), high or 1.0)
        elif name == "value":
            low, high = map(float, np.percentile(values, [100 - _TAIL, _TAIL]))
            found[name] = (low, high if high > low else low + 1)
        elif name == "log_prob":
            low = float(np.percentile(values, 100 - _TAIL))
            found[name] = (low if low < 0 else -1.0, 0.0)
        else:
            high = float(np.percentile(values, _TAIL))
            found[name] = (0.0, high if high > 0 else 1.0)
    return found


def _columns(
    episode: Episode, reading: Reading, known: np.ndarray, reference: bool
) -> dict[str, np.ndarray]:
    def part(values):
        return np.asarray(values, np.float32)[: len(known)]

    found = {}
    if reading.value is not None:
        last = np.maximum.accumulate(np.where(known, np.arange(len(known)), 0))
        found["value"] = part(reading.value)[last]
        found["advantage"] = advantages(found["value"], episode.reward)
    if reference:
        found["log_ratio"] = part(reading.log_prob) - part(reading.reference_log_prob)
        found["kl"] = part(reading.kl)
    found["log_prob"] = part(reading.log_prob)
    found["entropy"] = part(reading.entropy)
    return found


def _steps(number: np.ndarray, columns: Mapping[str, np.ndarray]) -> list[Step]:
    credit = columns[credit_column(columns)].copy()
    if "advantage" in columns:
        credit[np.flatnonzero(np.isfinite(credit))[-1]] = 0.0  # the surprise
    found = []
    for step in range(int(number.max()) + 1):
        (inside,) = np.nonzero(number == step)
        if not len(inside):
            continue
        first, stop = int(inside[0]), int(inside[-1]) + 1
        start = float(columns["value"][first]) if "value" in columns else None
        found.append(Step(first, stop, float(credit[inside].sum()), start))
    return found
