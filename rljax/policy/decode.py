"""Generation: prompts in, sampled text and its log-probabilities out.

A fixed number of slots serves a queue. A prompt is prefilled once, whatever number of
samples it is to have, and its keys and values are copied into a slot for each; a
compiled loop samples in all slots until a few have ended; their texts are handed over
and the slots filled again. So a long text never holds up others. What is compiled is in
`slots`; here is the host's part, which sees the queue between compiled calls.

An encoder-decoder is served the same way. Its encoder reads a prompt once, the keys and
values of cross-attention are what is copied, and the cache holds what is decoded.

Sizes come in buckets. Prompts are padded to the smallest that holds them. The cache
begins small and is copied into a larger one when a text needs it, for a token's
attention costs what the cache could hold. At the end of the queue the last texts move
into a quarter of the slots.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import stepwise
from rljax.policy import slots as slots_lib
from rljax.policy import truncate
from rljax.policy.desk import Programs, Row, Settings, Work, round_up, serve
from rljax.policy.slots import Config
from rljax.types import Key, Params


class Generated(NamedTuple):
    """Texts, in the order prompt 0 sample 0, prompt 0 sample 1, and so on.

    T is a multiple of 16. Prompt and answer stand together as the learner reads them;
    of an encoder-decoder, whose decoder reads the start token and the answer, they
    stand together all the same, and the start token nowhere.
    """

    ids: np.ndarray  # int32 [N, T], prompt, then what was sampled; 0 after the end
    length: np.ndarray  # int32 [N], of both
    prompt_length: np.ndarray  # int32 [N]
    sampled: np.ndarray  # bool [N, T], the policy said it; the end token included
    log_probs: np.ndarray  # float32 [N, T], log p(ids[t] | ids[:t]); 0 if not sampled
    stopped: np.ndarray  # bool [N], by a stop id or string, not for its length


# Everything after `keys` has a default; see `make`.
Generate = Callable[..., Generated]

# Draws of other implementations depend on what is drawn beside them under vmap.
_KEYS = "threefry2x32"


class Decoding(NamedTuple):
    """What `make` makes."""

    generate: Generate
    settings: Settings
    traces: list[str]  # names of the programs compiled so far


def make(
    config: Config,
    settings: Settings,
    stop_ids: Sequence[int] = (),
    truncation: truncate.Truncation | None = None,
) -> Decoding:
    """A generator for models of one configuration.

    Args:
      config: the model's settings, a decoder's or an encoder-decoder's.
      settings: sizes.
      stop_ids: tokens that end a text. They are part of it, with log-probability and
        mask: the policy chose them.
      truncation: what may be drawn; everything by default.

    Returns:
      Its `generate` takes:
        params: the model's parameters.
        prompts: integers, the token ids of each prompt, none of them empty. An encoder
          reads them as they are: one that was trained to read an end token after them
          wants it among them.
        keys: typed PRNG keys, one for each prompt, of JAX's default implementation.
          Sample j of a prompt is a function of the prompt, its key and j: not of the
          other prompts, nor of the slot.
        samples: texts for each prompt.
        limits: most tokens for each prompt; `settings.longest` for all by default.
        temperature: of the distribution that is drawn from; 0 takes the likeliest. It
          is not compiled in. Log-probabilities are of temperature 1, untruncated.
        stop_strings: a text ends with the first token at which its sampled part, as
          text, holds one of them. They are looked for every `settings.check` tokens,
          and what was sampled since is dropped.
        text: token ids -> text, for `stop_strings`. The text of a beginning must be a
          beginning of the text of the whole, but for a character that is cut in two;
          so it is with tokenizers that do not clean up spaces.

    Raises:
      ValueError: if the model cannot hold the sizes, or a stop id is not a token. What
        `generate` is given is checked the same way.
    """
    _check_model(config, settings, stop_ids)
    kept = truncate.Truncation() if truncation is None else truncation
    traces: list[str] = []
    made: dict[int, Programs] = {}

    def programs_for(share: Settings) -> Programs:
        if share.desks not in made:
            made[share.desks] = _compile(config, share, tuple(stop_ids), kept, traces)
        return made[share.desks]

    def generate(
        params: Params,
        prompts: Sequence[Sequence[int]],
        keys: Key,
        *,
        samples: int = 1,
        limits: Sequence[int] | None = None,
        temperature: float = 1.0,
        stop_strings: Sequence[str] = (),
        text: Callable[[Sequence[int]], str] | None = None,
    ) -> Generated:
        limits = [settings.longest] * len(prompts) if limits is None else list(limits)
        _check_count("samples is", samples)
        work = Work(
            prompts=[np.asarray(prompt) for prompt in prompts],
            keys=_job_keys(keys, samples),
            samples=samples,
            limits=limits,
            temperature=temperature,
            stop_strings=tuple(stop_strings),
            text=text,
            start_id=stepwise.of(config).start_id,
        )
        _check_work(config, settings, work)
        if not prompts:
            return _join(work, {}, ())
        # Not before, since what they hold may not fit.
        work = work._replace(prompts=[x.astype(np.int32) for x in work.prompts])
        share = settings.of_desk(len(prompts))
        rows = serve(programs_for(share), share, params, work)
        return _join(work, rows, stop_ids)

    return Decoding(generate, settings, traces)


def _compile(config, settings, stop_ids, truncation, traces) -> Programs:
    """The jitted parts; each notes when it is traced."""

    def traced(name, run, **options):
        def noted(*args):
            traces.append(name)
            return run(*args)

        return jax.jit(noted, **options)

    def start(columns):
        keys = jax.random.split(jax.random.key(0, impl=_KEYS), settings.slots)
        longest, prompt = settings.longest, settings.prompts[-1]
        return slots_lib.start(keys, columns, longest, config, prompt)

    def place(slots, prompts, fields, count, key_data):
        source, target, token, position, limit = fields
        keys = jax.random.wrap_key_data(key_data, impl=_KEYS)
        return slots_lib.place(
            slots, prompts, source, target, count, token, position, limit, keys
        )

    def run(weights, slots, stay, temperature, leave_at, turns):
        return slots_lib.run(
            weights, slots, stay, temperature, leave_at, turns,
            stop_ids, truncation, config,
        )  # fmt: skip

    def take(slots, rows, columns):
        return slots_lib.take(slots, rows, columns, config)

    model = stepwise.of(config)
    return Programs(
        arrange=traced("arrange", model.arrange),
        prefill=traced("prefill", model.prefill),
        start=traced("start", start, static_argnums=0),
        place=traced("place", place, donate_argnums=0),
        take=traced("take", take, static_argnums=2),
        run=traced("run", run, donate_argnums=1),
    )


def _job_keys(keys: Key, samples: int) -> np.ndarray:
    """fold_in(key of the prompt, sample) for each job, as the words of a key."""
    if (found := jax.random.key_impl(keys)) != _KEYS:
        raise ValueError(
            f"keys are of implementation {found}, expected {_KEYS}: "
            f"jax.random.key(seed, impl={_KEYS!r})"
        )
    shape = jax.random.key_data(keys).shape[:-1]
    if len(shape) != 1:
        raise ValueError(
            f"keys has shape {shape}; one key for each prompt was expected: "
            "jax.random.split(key, prompts)"
        )
    words = np.asarray(_folded(keys, samples))
    return words.reshape(-1, words.shape[-1])


@functools.partial(jax.jit, static_argnums=1)  # not compiled it takes 10 ms a call
def _folded(keys: Key, samples: int) -> jax.Array:
    numbers = jnp.arange(samples)
    each = jax.vmap(lambda key: jax.vmap(lambda j: jax.random.fold_in(key, j))(numbers))
    return jax.random.key_data(each(keys))


def _join(work: Work, rows: dict[int, Row], stop_ids: Sequence[int]) -> Generated:
    """Prompt and answer of each job in one row."""
    jobs = len(work.keys)
    prompts = [work.prompts[job // work.samples] for job in range(jobs)]
    begin = np.array([len(prompt) for prompt in prompts], np.int32)
    length = begin + np.array([len(rows[j].ids) for j in range(jobs)], np.int32)
    width = round_up(int(length.max(initial=1)))
    ids, log_probs = np.zeros((jobs, width), np.int32), np.zeros((jobs, width))
    stopped = np.zeros(jobs, bool)
    for job, prompt in enumerate(prompts):
        row = rows[job]
        if not np.isfinite(row.log_probs).all():
            first = int(np.argmin(np.isfinite(row.log_probs)))
            raise FloatingPointError(
                f"prompt {job // work.samples}, sample {job % work.samples}: the "
                f"log-probability of token {first} is {row.log_probs[first]}; the "
                "model's weights or activations are not finite"
            )
        ids[job, : begin[job]] = prompt
        ids[job, begin[job] : length[job]] = row.ids
        log_probs[job, begin[job] : length[job]] = row.log_probs
        stopped[job] = row.by_string or int(row.ids[-1]) in stop_ids
    places = np.arange(width)
    sampled = (places >= begin[:, None]) & (places < length[:, None])
    return Generated(ids, length, begin, sampled, log_probs.astype(np.float32), stopped)


def _check_model(config: Config, settings: Settings, stop_ids: Sequence[int]):
    for token in stop_ids:
        if not 0 <= token < config.vocab_size:
            raise ValueError(
                f"stop id {token} is not a token; there are {config.vocab_size}"
            )
    context, longest = _context(config), settings.prompts[-1]
    if context is not None and longest > context:
        raise ValueError(
            f"prompts of up to {longest} tokens do not fit the model's context of "
            f"{context}; give smaller buckets"
        )


def _check_work(config: Config, settings: Settings, work: Work) -> None:
    """Whether the queue can be served as it is."""
    count = len(work.prompts)
    if work.samples < 1:
        raise ValueError(f"samples is {work.samples}; it must be >= 1")
    if len(work.keys) != count * work.samples or len(work.limits) != count:
        raise ValueError(
            f"{count} prompts have {len(work.keys) // work.samples} keys and "
            f"{len(work.limits)} limits; one of each for each was expected"
        )
    if not 0 <= work.temperature < float("inf"):
        raise ValueError(
            f"temperature is {work.temperature}; it must be finite and not negative"
        )
    for i, (prompt, limit) in enumerate(zip(work.prompts, work.limits, strict=True)):
        _check_prompt(i, prompt, limit, config, settings)
    for string in work.stop_strings:
        if not string or "\ufffd" in string:
            raise ValueError(
                f"stop string {string!r} is empty or holds U+FFFD, which stands for "
                "half a character"
            )
    if work.stop_strings and work.text is None:
        raise ValueError("stop strings need `text`, which turns token ids into text")


def _context(config: Config) -> int | None:
    """Most positions; an encoder-decoder has no limit of its own."""
    return getattr(config, "max_positions", None)


def _check_count(what: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{what} {value!r}; it must be an int")


def _check_prompt(
    i: int, prompt: np.ndarray, limit: int, config: Config, settings: Settings
) -> None:
    if prompt.ndim != 1 or not len(prompt):
        raise ValueError(f"prompt {i} has shape {prompt.shape}; it needs some tokens")
    if not np.issubdtype(prompt.dtype, np.integer):
        raise ValueError(f"prompt {i} holds {prompt.dtype}; token ids are integers")
    wrong = prompt[(prompt < 0) | (prompt >= config.vocab_size)]
    if len(wrong):
        raise ValueError(
            f"prompt {i} holds token {wrong[0]}; the model has {config.vocab_size}"
        )
    _check_count(f"prompt {i} has a limit of", limit)
    if not 1 <= limit <= settings.longest:
        raise ValueError(
            f"prompt {i} has a limit of {limit} tokens; it must be from 1 to "
            f"{settings.longest}, what `longest` says"
        )
    context = _context(config)
    if context is not None and len(prompt) + limit > context:
        raise ValueError(
            f"prompt {i} has {len(prompt)} tokens, and with a limit of {limit} more "
            f"the text may have {len(prompt) + limit}; the model's context is "
            f"{context}: shorten the prompt or lower the limit"
        )
    if len(prompt) > settings.prompts[-1]:
        raise ValueError(
            f"prompt {i} has {len(prompt)} tokens; the largest bucket is "
            f"{settings.prompts[-1]}: shorten it or give a larger bucket"
        )
