"""Playground prompts in chat templates: tables on the device, text on the host."""

import functools

import jax
import numpy as np
import pytest
import tokenizers
import transformers

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render
from rljax.envs.playground.pieces import Layout
from rljax.envs.playground.worlds import world_a
from rljax.text import chat
from rljax.text.rendering import Frame, check_rendering, framed
from rljax.text.template import Message
from tests.envs.test_render import sample
from tests.text import speaking

WORLD, LAYOUT = world_a(), Layout(num_objects=5, inventory=2, history=2)
GOALS = goals_lib.goals_of(WORLD)
MAKERS = {
    "chatml": lambda: speaking.byte_level(speaking.CHATML),
    "headers": lambda: speaking.byte_level(speaking.HEADERS),
    "smollm2": speaking.smollm2,
    "qwen": speaking.qwen,
}


@functools.cache
def renderer_of(kind):
    tokenizer = MAKERS[kind]()
    return tokenizer, render.make(WORLD, GOALS, tokenizer, LAYOUT)


@pytest.mark.parametrize("kind", MAKERS)
def test_rendering_equals_tokenizing_the_whole_chat(kind):
    tokenizer, bare = renderer_of(kind)
    template = chat.from_tokenizer(tokenizer)
    renderer = framed(tokenizer, bare, chat.frame(template))
    states = sample("A", LAYOUT, 24)
    check_rendering(tokenizer, renderer, states)
    prompts = jax.device_get(jax.jit(jax.vmap(renderer.prompt))(states))
    assert prompts.ids.shape == (24, renderer.prompt_tokens)
    for i in range(4):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        # The oracle: the template's own text, and the tokenizer on all of it.
        body = bare.describe(state).removesuffix("\nAction:")
        whole = tokenizer.apply_chat_template(
            [{"role": "user", "content": body}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = tokenizer(f"{whole}Action:", add_special_tokens=False)["input_ids"]
        length = int(prompts.length[i])
        assert prompts.ids[i][:length].tolist() == ids
        assert not prompts.ids[i][length:].any()
        assert renderer.describe(state) == f"{whole}Action:"


def test_the_longest_prompt_fits():
    tokenizer, bare = renderer_of("chatml")
    renderer = framed(tokenizer, bare, chat.frame(chat.from_tokenizer(tokenizer)))
    states = sample("A", LAYOUT, 200, seed=2)
    length = jax.jit(jax.vmap(renderer.prompt))(states).length
    plain = jax.jit(jax.vmap(bare.prompt))(states).length
    assert len(set(np.asarray(length - plain).tolist())) == 1
    more = int(length[0] - plain[0])
    assert renderer.prompt_tokens == bare.prompt_tokens + more


def test_another_speaker_and_no_prefill():
    tokenizer, bare = renderer_of("chatml")
    template = chat.from_tokenizer(tokenizer)
    earlier = [Message("system", "Be good.")]
    frame = chat.frame(template, earlier=earlier, prefill="", drops="")
    assert frame == Frame(
        "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "",
    )
    check_rendering(tokenizer, framed(tokenizer, bare, frame), sample("A", LAYOUT, 8))


def test_an_environment_of_framed_prompts():
    tokenizer, _ = renderer_of("headers")
    frame = chat.frame(chat.from_tokenizer(tokenizer))
    sampler = goals_lib.uniform_by_kind(GOALS, goals_lib.singles(GOALS, train=True))
    bare, env = (
        make.make(
            WORLD,
            tokenizer,
            num_objects=4,
            inventory=2,
            limit=5,
            sampler=sampler,
            frame=around,
        )
        for around in (None, frame)
    )
    states = sample("A", Layout(4, 2), 8, sequences=False)
    check_rendering(tokenizer, env, states)
    assert jax.jit(jax.vmap(env.prompt))(states).ids.shape == (
        8,
        env.sizes.prompt_tokens,
    )
    state = jax.tree.map(lambda x: x[0], states)
    text = bare.describe(state).removesuffix("\nAction:")
    assert env.describe(state) == f"{frame.before}{text}{frame.after}"
    assert env.sizes._replace(prompt_tokens=0) == bare.sizes._replace(prompt_tokens=0)


def test_a_frame_that_joins_is_found():
    tokenizer, bare = renderer_of("chatml")
    frame = Frame("", "\nAction: re", "\nAction:")
    renderer = framed(tokenizer, bare, frame)
    check_rendering(tokenizer, renderer, sample("A", LAYOUT, 2))
    tokenizer.add_tokens(["emptyX", "nothingX"])
    try:
        renderer = framed(tokenizer, bare, Frame("", "X", "\nAction:"), inside="you")
        with pytest.raises(ValueError, match="tables and tokenizer disagree"):
            check_rendering(tokenizer, renderer, sample("A", LAYOUT, 64))
    finally:
        renderer_of.cache_clear()
        speaking.byte_level.cache_clear()


def test_a_tokenizer_that_marks_the_beginning_of_a_text():
    plain = speaking.byte_level()
    backend = tokenizers.Tokenizer.from_str(plain.backend_tokenizer.to_str())
    backend.normalizer = tokenizers.normalizers.Prepend("_")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>"
    )
    bare = render.make(WORLD, GOALS, tokenizer, LAYOUT)
    renderer = framed(tokenizer, bare, Frame("", "\nWhat now?", "\nAction:"))
    check_rendering(tokenizer, renderer, sample("A", LAYOUT, 8))
    # Between two texts the prompt's own mark would be one too many.
    renderer = framed(tokenizer, bare, Frame("Play.\n", "\nNow?", "\nAction:"))
    with pytest.raises(ValueError, match="tables and tokenizer disagree"):
        check_rendering(tokenizer, renderer, sample("A", LAYOUT, 2))


def test_a_prompt_that_ends_otherwise_is_an_error():
    tokenizer, bare = renderer_of("chatml")
    renderer = framed(tokenizer, bare, Frame("", "", "Goal:"))
    state = jax.tree.map(lambda x: x[0], sample("A", LAYOUT, 1))
    with pytest.raises(ValueError, match="does not end with 'Goal:'"):
        renderer.describe(state)
