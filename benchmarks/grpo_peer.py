"""The peer of a GRPO step: google-tunix, in a process and environment of its own.

Started by `benchmarks.grpo` with the Python of that environment, it loads a model
folder and then answers requests, one JSON object a line, so that its steps can be taken
in between ours. Its learner asks for the next prompts when a step is over, which is
where the requests are read. It imports nothing of rljax and runs no code but this file.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

STEPS = 1_000_000  # more than anybody asks for


class Numbers:
    """A tokenizer whose text is the numbers of the tokens.

    Neither the end token nor padding is a token of the model, so that no text ends
    early and no token is taken for padding.
    """

    def __init__(self, vocabulary: int):
        """The end and padding are the two numbers after the last token."""
        self._vocabulary = vocabulary

    def encode(self, text, **options):
        """Token ids of a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids, **options):
        """The text of token ids."""
        return " ".join(map(str, ids))

    def bos_id(self):
        """There is none."""
        return None

    def eos_id(self):
        """Nothing that can be drawn."""
        return self._vocabulary

    def pad_id(self):
        """Nothing that can be drawn."""
        return self._vocabulary + 1


def main() -> None:
    """Serves requests until there are no more."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    folder, asked = sys.argv[1], json.loads(sys.argv[3])
    cluster = make_cluster(folder, asked)
    learner_lib: Any = importlib.import_module("tunix.rl.grpo.grpo_learner")
    config = learner_lib.GRPOConfig(
        num_generations=asked["samples"], num_iterations=1, beta=asked["kl_weight"],
        epsilon=0.2, loss_agg_mode="token-mean",
    )  # fmt: skip
    judge = Judge()
    learner = learner_lib.GRPOLearner(
        rl_cluster=cluster, algo_config=config, reward_fns=judge
    )
    names = ("google-tunix", "jax", "flax")
    say(out, {name: importlib.metadata.version(name) for name in names})
    learner.train(requests(cluster, judge, out))


def say(out, answer):
    """One line to the benchmark."""
    print(json.dumps(answer), file=out, flush=True)


class Judge:
    """1 where a text has an even number of characters, as ours; counts tokens."""

    __name__ = "even"

    def __init__(self):
        """No text has come yet."""
        self.tokens = 0

    def __call__(self, prompts, completions, **rest):
        """The reward of each text."""
        self.tokens += sum(len(text.split()) for text in completions)
        return [float(len(text) % 2 == 0) for text in completions]


def requests(cluster, judge, out):
    """Prompts of a step; when the next are asked for it is over, and is answered."""
    jax = importlib.import_module("jax")
    np = importlib.import_module("numpy")
    nnx = importlib.import_module("flax.nnx")
    for line in sys.stdin:
        request = json.loads(line)
        if request["way"] == "log_probs":
            say(out, {"log_probs": log_probs(cluster, **request["texts"])})
            continue
        judge.tokens = 0
        start, cpu = time.perf_counter(), time.process_time()
        yield {"prompts": np.array(request["prompts"])}
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        took = time.perf_counter() - start
        cpu = time.process_time() - cpu
        say(out, {"seconds": took, "cpu": cpu, "tokens": judge.tokens})


def log_probs(cluster, prompts, answers):
    """Of the answers' tokens, as the policy has them."""
    jnp = importlib.import_module("jax.numpy")
    found = cluster.rollout.get_per_token_logps(
        jnp.array(prompts, jnp.int32), jnp.array(answers, jnp.int32)
    )
    return found.tolist()


def make_cluster(folder, asked):
    """The policy, its sampler and its optimiser; the reference where there is a KL."""
    jax = importlib.import_module("jax")
    np = importlib.import_module("numpy")
    cluster_lib: Any = importlib.import_module("tunix.rl.rl_cluster")
    rollout_lib: Any = importlib.import_module("tunix.rl.rollout.base_rollout")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    roles = (
        cluster_lib.Role.ACTOR,
        cluster_lib.Role.REFERENCE,
        cluster_lib.Role.ROLLOUT,
    )
    groups = asked["groups"]
    training = cluster_lib.RLTrainingConfig(
        actor_optimizer=adam(), eval_every_n_steps=STEPS, max_steps=STEPS,
        mini_batch_size=groups, train_micro_batch_size=groups,
    )  # fmt: skip
    rollout = rollout_lib.RolloutConfig(
        max_tokens_to_generate=asked["new"], max_prompt_length=asked["prompt"],
        kv_cache_size=asked["prompt"] + asked["new"], temperature=1.0, top_p=1.0,
    )  # fmt: skip
    return cluster_lib.RLCluster(
        actor=load(folder, mesh),
        reference=load(folder, mesh) if asked["kl_weight"] else None,
        tokenizer=Numbers(asked["vocabulary"]),
        cluster_config=cluster_lib.ClusterConfig(
            role_to_mesh={role: mesh for role in roles},
            rollout_engine="vanilla",
            training_config=training,
            rollout_config=rollout,
        ),
    )


def adam():
    """The optimiser that ours has."""
    optax = importlib.import_module("optax")
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(1e-5, b1=0.9, b2=0.95, eps=1e-8)
    )


def load(folder, mesh):
    """A Llama with the weights of the folder, float32."""
    jnp = importlib.import_module("jax.numpy")
    model_lib: Any = importlib.import_module("tunix.models.llama3.model")
    params_lib: Any = importlib.import_module("tunix.models.llama3.params")
    with open(os.path.join(folder, "config.json")) as file:
        c = json.load(file)
    config = model_lib.ModelConfig(
        num_layers=c["num_hidden_layers"], vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"], hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"], head_dim=c["head_dim"],
        num_kv_heads=c["num_key_value_heads"], rope_theta=int(c["rope_theta"]),
        norm_eps=c["rms_norm_eps"], weight_tying=c["tie_word_embeddings"],
    )  # fmt: skip
    return params_lib.create_model_from_safe_tensors(
        folder, config, mesh, dtype=jnp.float32
    )


if __name__ == "__main__":
    main()
