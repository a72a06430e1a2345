"""Two renderings of a state, one text: tables on the device, strings on the host."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers

from rljax.envs.playground import render
from rljax.envs.playground.goals import goals_of
from rljax.envs.playground.pieces import Layout
from rljax.envs.playground.types import Observation
from rljax.envs.playground.worlds import Growth, World, world_a, world_b
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.rendering import check_rendering

# Not in the package: two-word types, one colour, other names while young.
MADE_UP = World(
    name="made up",
    colours=("grey",),
    categories=(
        ("beast", ("polar bear", "bear")),
        ("thing_to_eat", ("ice cream",)),
        ("den", ("cave",)),
    ),
    growths=(Growth("beast", by="thing_to_eat"),),
    young=(("beast", "tiny {} cub"),),
    sizes=(0.2, 0.2),
    grows_in_hand=True,
    supply_consumed=True,
    release_drops=True,
    put_down_by_growth=(),
    test_phrases=("polar bear",),
)
WORLDS = {"A": world_a(), "B": world_b(), "made up": MADE_UP}
GOALS = {name: goals_of(world) for name, world in WORLDS.items()}
LAYOUT = Layout(num_objects=5, inventory=2, history=2)


def sample(world, layout, count, seed=0, sequences=True):
    """Random states that fit a layout, reachable or not; leaves [count, ...]."""
    rng = np.random.default_rng(seed)
    goals, rows = GOALS[world], []
    for _ in range(count):
        few = rng.integers(1, WORLDS[world].num_names + 1)  # so that names repeat
        names = rng.integers(0, few, layout.num_objects)
        names[rng.random(layout.num_objects) < rng.random()] = -1
        there = rng.permutation(np.flatnonzero(names >= 0))
        taken = rng.integers(0, min(layout.inventory, len(there)) + 1)
        held = np.full(layout.inventory, -1)
        held[:taken] = there[:taken]
        # What is held is not stood on, whatever the flags say.
        on = there[: taken + rng.integers(0, layout.on + 1)]
        goal = rng.integers(0, goals.size, 2)
        goal[1] = goal[1] if sequences and rng.random() < 0.5 else -1
        remembered = layout.history + 1  # one more than is shown
        history = np.full(remembered, -1)
        past = rng.integers(0, remembered + 1)
        history[remembered - past :] = rng.integers(
            0, 2 + 2 * WORLDS[world].num_names, past
        )
        rows.append(observation(names, held, on, goal, history))
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def observation(names, held=(-1, -1), on=(), goal=(0, -1), history=()):
    """One state, in numpy arrays, so that tests can write into them."""
    flags = np.zeros(len(names), bool)
    flags[list(on)] = True
    fields: dict[str, Any] = {
        "names": np.asarray(names, np.int16),
        "held": np.asarray(held, np.int8),
        "on": flags,
        "goal": np.asarray(goal, np.int16),
        "history": np.asarray(history, np.int16),
    }
    return Observation(**fields)


def byte_level(texts):
    """A byte-level BPE tokenizer trained on texts, with GPT-2's way of cutting."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre
    return trained(backend, texts)


def greedy_merges(texts):
    """One that merges over spaces, commas and newlines: tables cannot follow."""
    return trained(tokenizers.Tokenizer(tokenizers.models.BPE()), texts)


def trained(backend, texts):
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>"
    )


def rendered_texts(world, layout):
    states = sample(world, layout, 100, seed=1)
    for i in range(100):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        yield render.describe(WORLDS[world], GOALS[world], layout, state)
        yield from (f" {t}" for t in render.command_texts(WORLDS[world], state) if t)


@functools.cache
def tokenizer_of(kind, world):
    if kind == "words":
        words = render.vocabulary(WORLDS[world], GOALS[world], LAYOUT)
        return tokenizer_lib.word_level(words)
    train = {"bytes": byte_level, "greedy": greedy_merges}[kind]
    return train(list(rendered_texts(world, LAYOUT)))


def renderer_of(kind, world, layout=LAYOUT, **sizes):
    return render.make(
        WORLDS[world], GOALS[world], tokenizer_of(kind, world), layout, **sizes
    )


def test_text_is_the_references():
    world, goals = WORLDS["B"], GOALS["B"]
    seed, beet = world.name_id("beet", "red"), world.name_id("beet", "red", True)
    water = world.name_id("water", "green")
    cow = world.name_id("cow", "blue")
    layout = Layout(4, 2)
    goal = goals.parse("Grow red beet")
    text = functools.partial(render.describe, world, goals, layout)
    assert text(observation([seed, water, -1, -1], goal=goal)) == (
        "Goal: Grow red beet\nYou see: red beet seed, green water\n"
        "You are on: nothing\nInventory (0/2): empty\nAction:"
    )
    # Held objects are listed in the order of the places, and are not seen.
    state = observation([seed, water, cow, beet], held=[2, 1], on=[0, 3], goal=goal)
    assert text(state) == (
        "Goal: Grow red beet\nYou see: red beet seed, red beet\n"
        "You are on: red beet seed, red beet\n"
        "Inventory (2/2): baby blue cow, green water\nAction:"
    )
    sequence = goals.parse("Grow red beet then grasp any green thing")
    assert text(observation([-1, water, -1, -1], [1, -1], goal=sequence)) == (
        "Goal: Grow red beet then grasp any green thing\nYou see: nothing\n"
        "You are on: nothing\nInventory (1/2): green water\nAction:"
    )


def test_history_is_a_line_of_its_own():
    world, goals = WORLDS["B"], GOALS["B"]
    layout = Layout(1, 1, history=2)
    names = world.num_names
    text = functools.partial(render.describe, world, goals, layout)
    cow = world.name_id("cow", "red", True)
    lines = text(observation([-1], [-1], history=[-1, -1, -1])).split("\n")
    assert lines[3:] == ["Inventory (0/1): empty", "Action:"]
    lines = text(observation([-1], [-1], history=[-1, -1, 0])).split("\n")
    assert lines[4:] == ["Past: Grasp", "Action:"]
    # Only the last two are shown.
    history = [1, 2 + cow, 2 + names + cow]
    lines = text(observation([-1], [-1], history=history)).split("\n")
    assert lines[4:] == ["Past: Go to red cow, Release red cow", "Action:"]


def test_commands_by_hand():
    world = WORLDS["B"]
    seed, water = world.name_id("beet", "red"), world.name_id("water", "green")
    # Two waters seen, of which the first keeps the command; two more held.
    state = observation([water, seed, water, water, -1, water], held=[3, 5])
    assert render.command_texts(world, state) == [
        *("Grasp", "Go to green water", "Go to red beet seed", "", "", "", ""),
        *("Release green water", "", "Release all"),
    ]
    ids, mask = render.slot_commands(jnp.asarray(world.same_name, jnp.int32), state)
    names = world.num_names
    assert mask.tolist() == [True] * 3 + [False] * 4 + [True, False, True]
    green = int(world.same_name[water])
    expected = [0, 2 + green, 2 + seed, 2 + green, -1, -1, -1]
    assert ids.tolist() == [*expected, 2 + names + green, 2 + names + green, 1]


def test_what_reads_the_same_is_one_command():
    world = WORLDS["A"]  # where a grown cat is called what a young one is
    young, grown = world.name_id("cat", "red"), world.name_id("cat", "red", True)
    assert world.names[young] == world.names[grown] and young != grown
    state = observation([grown, young])
    assert render.command_texts(world, state)[:3] == ["Grasp", "Go to red cat", ""]
    mask = renderer_of("words", "A", Layout(2, 2)).commands(state).mask
    assert mask.tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_rendering_equals_tokenizing(kind, world):
    tokenizer, renderer = tokenizer_of(kind, world), renderer_of(kind, world)
    states = sample(world, LAYOUT, 64)
    check_rendering(tokenizer, renderer, states)
    # The same again without the function under test, and for the sizes.
    prompts = jax.jit(jax.vmap(renderer.prompt))(states)
    assert prompts.ids.shape == (64, renderer.prompt_tokens)
    for i in range(2):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        ids = tokenizer(renderer.describe(state), add_special_tokens=False)["input_ids"]
        padding = [0] * (renderer.prompt_tokens - len(ids))
        assert prompts.ids[i].tolist() == ids + padding
        alone = renderer.prompt(state)  # neither jit nor vmap
        assert alone.ids.tolist() == ids + padding and alone.length == len(ids)
        commands = renderer.commands(state)
        for slot, text in enumerate(renderer.command_texts(state)):
            ids = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
            ids = ids if text else []
            padding = [0] * (renderer.command_tokens - len(ids))
            assert commands.ids[slot].tolist() == ids + padding
            assert commands.length[slot] == len(ids)
            assert bool(commands.mask[slot]) == bool(text)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(1, 1),
        Layout(3, 3, max_on=1),
        Layout(8, 2, max_on=2, history=1, sequences=False),
    ],
)
def test_layouts(layout):
    world = WORLDS["made up"]
    words = render.vocabulary(world, GOALS["made up"], layout)
    tokenizer = tokenizer_lib.word_level(words)
    renderer = render.make(world, GOALS["made up"], tokenizer, layout)
    states = sample("made up", layout, 100, sequences=layout.sequences)
    check_rendering(tokenizer, renderer, states)
    slots = renderer.commands(jax.tree.map(lambda x: x[0], states)).mask
    assert len(slots) == layout.num_objects + layout.inventory + 2


def test_words_of_a_world_are_all_used():
    """No word is missing (that raises), and none is left over."""
    tokenizer = tokenizer_of("words", "made up")
    texts = [*rendered_texts("made up", LAYOUT), "Goal: Inventory (0/2): Past: empty"]
    used = {t for text in texts for t in tokenizer(text)["input_ids"]}
    assert used == set(range(3, len(tokenizer)))
    assert tokenizer.tokenize("Inventory (1/2): grey bear, grey cave\nAction:") == [
        *("Inventory (1/2):", "grey", "bear", "grey", "cave", "Action:")
    ]


@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_no_prompt_is_longer_than_the_proven_longest(kind):
    renderer = renderer_of(kind, "B")
    states = sample("B", LAYOUT, 300, seed=2)
    tokenizer = tokenizer_of(kind, "B")
    # Make them long: everything there, everything stood on, the longest texts.
    world, goals = WORLDS["B"], GOALS["B"]

    def tokens(text):
        return len(tokenizer(text)["input_ids"])

    name = max(range(world.num_names), key=lambda i: tokens(f", {world.names[i]}"))
    goal = max(range(goals.size), key=lambda i: tokens(f" {goals.texts[i]}"))
    for held in (0, 1, 2):
        states.names[held] = name
        states.held[held] = [*range(held), -1, -1][:2]
        states.on[held] = np.arange(5) >= held
        states.goal[held] = goal
        states.history[held] = 2 + world.num_names + name
    lengths = jax.jit(jax.vmap(renderer.prompt))(states).length
    assert int(lengths.max()) <= renderer.prompt_tokens
    if kind == "words":  # whose tokens do not depend on what comes before
        assert int(lengths.max()) == renderer.prompt_tokens
    check_rendering(tokenizer, renderer, states)


def test_every_command_is_in_the_table():
    renderer, world = renderer_of("bytes", "B"), WORLDS["B"]
    table, tokenizer = renderer.command_table, tokenizer_of("bytes", "B")
    assert table.ids.shape == (2 + 2 * world.num_names, renderer.command_tokens)
    cow = world.name_id("cow", "red")
    for row, text in ((1, " Release all"), (2 + cow, " Go to baby red cow")):
        ids = tokenizer(text)["input_ids"]
        assert table.ids[row][: table.length[row]].tolist() == ids


def test_a_tokenizer_that_joins_pieces_is_refused():
    tokenizer = tokenizer_of("greedy", "A")
    with pytest.raises(ValueError, match="(?s)joins the end of|tables and tokenizer"):
        renderer = renderer_of("greedy", "A")
        check_rendering(tokenizer, renderer, sample("A", LAYOUT, 16))


def test_a_difference_shows_both_sides():
    tokenizer, renderer = tokenizer_of("words", "A"), renderer_of("words", "A")
    states = sample("A", LAYOUT, 4)

    def longer(state):
        return renderer.describe(state).replace("Action:", "empty\nAction:")

    with pytest.raises(ValueError, match=r"(?s)disagree on 'Goal:.*tables .*tokenizer"):
        check_rendering(tokenizer, renderer._replace(describe=longer), states)

    def other(state):
        texts = renderer.command_texts(state)
        return [t.replace("Grasp", "Release all") for t in texts]

    match = r"(?s)disagree on ' Release all' after 'Goal:.*'Grasp'.*'Release all'"
    with pytest.raises(ValueError, match=match):
        check_rendering(tokenizer, renderer._replace(command_texts=other), states)

    def fewer(state):
        return ["", *renderer.command_texts(state)[1:]]

    match = r"command slot 0 is admissible on the device, but its text is ''"
    with pytest.raises(ValueError, match=match):
        check_rendering(tokenizer, renderer._replace(command_texts=fewer), states)


def test_a_joined_pair_of_pieces_is_found():
    """The tables are made from pieces that follow "nothing"; here only "cat," joins."""
    tokenizer = tokenizer_of("bytes", "A")
    renderer = renderer_of("bytes", "A")
    state = observation([WORLDS["A"].name_id("cat", "red")] * 5, history=[-1, -1])
    states = jax.tree.map(lambda x: x[None], state)
    check_rendering(tokenizer, renderer, states)
    tokenizer = byte_level(rendered_texts("A", LAYOUT))
    tokenizer.add_tokens(["cat,"])
    with pytest.raises(ValueError, match="tables and tokenizer disagree"):
        check_rendering(tokenizer, renderer, states)


@pytest.mark.parametrize(
    "layout, message",
    [
        (Layout(0, 2), "num_objects must be at least 1, got 0"),
        (Layout(4, 0), "inventory must be at least 1, got 0"),
        (Layout(4, 2, history=-1), "history must not be negative, got -1"),
        (Layout(4, 2, max_on=0), r"max_on must lie in \[1, 4\], got 0"),
        (Layout(4, 2, max_on=5), r"max_on must lie in \[1, 4\], got 5"),
    ],
)
def test_refuses_impossible_layouts(layout, message):
    with pytest.raises(ValueError, match=message):
        renderer_of("words", "A", layout)


def test_errors_name_the_limit():
    needed = renderer_of("words", "A").prompt_tokens
    with pytest.raises(ValueError, match=f"is {needed - 1}, the longest .* {needed}"):
        renderer_of("words", "A", prompt_tokens=needed - 1)
    assert renderer_of("words", "A", prompt_tokens=needed + 1).prompt_tokens > needed
    with pytest.raises(ValueError, match="does not know 'dog'"):
        words = tokenizer_of("words", "B")
        render.make(WORLDS["A"], GOALS["A"], words, LAYOUT)
    renderer = renderer_of("words", "A", Layout(2, 2, max_on=1, sequences=False))
    with pytest.raises(ValueError, match="on 2 objects, the layout has max_on 1"):
        renderer.describe(observation([0, 1], on=[0, 1]))
    with pytest.raises(ValueError, match="then .* is a sequence"):
        renderer.describe(observation([0, 1], goal=[200, 0]))
    renderer = renderer_of("words", "A")
    with pytest.raises(ValueError, match="history is 2, the observation remembers 1"):
        renderer.prompt(observation([0, 1], history=[0]))
    with pytest.raises(AssertionError):
        renderer.commands(jax.tree.map(lambda x: x[None], observation([0, 1])))
