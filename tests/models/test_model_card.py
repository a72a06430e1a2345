"""Model cards as the hub's own library reads them."""

from typing import Any

import pytest

from rljax.models import model_card

FACTS = model_card.Facts(
    name='a policy: "tiny"',
    base_model="SmolLM2-135M-Instruct",
    method="SAC-GLAM",
    command="python -m experiments.sac_glam --config=x.py:smoke --workdir=runs/a",
    seeds=(3, 4),
    data="51,200 steps of Playground-Text,\nplayed by the policy",
    task="Playground-Text: share of episodes",
    metrics={
        "random": {"grasp": 0.25},
        "before": {"grasp": 0.26, "grow: all": 0.0},
        "after": {"grasp": 0.9375, "grow: all": 0.5},
        "env_steps": 51_200,
        "train_seconds": 12.5,
    },
    base_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    license="apache-2.0",
    versions={"rljax": "0.1.0", "jax": None},
)


def read(text: str) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard(text)


def test_the_hub_reads_its_front_matter():
    card = read(model_card.text(FACTS))
    told = card.data.to_dict()
    assert told["library_name"] == "transformers"
    assert told["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert told["license"] == "apache-2.0"
    assert told["pipeline_tag"] == "text-generation"
    results = card.data.eval_results
    assert [(r.metric_name, r.metric_value, r.metric_type) for r in results] == [
        ("grasp", 0.9375, "success"),
        ("grow: all", 0.5, "success"),
    ]
    assert results[0].dataset_name == "Playground-Text: share of episodes"
    assert card.data.model_name == 'a policy: "tiny"'


def test_people_read_the_rest():
    text = read(model_card.text(FACTS)).content
    for part in (
        '# a policy: "tiny"\n',
        "* **Seeds**: 3, 4\n",
        "* **Data**: 51,200 steps of Playground-Text, played by the policy\n",
        "* **Versions**: rljax 0.1.0\n",
        f"```bash\n{FACTS.command}\n```",
        "| | random | before | after |\n|---|---|---|---|\n",
        "| grasp | 0.25 | 0.26 | 0.9375 |\n| grow: all |  | 0 | 0.5 |\n",
        "* env_steps: 51,200\n* train_seconds: 12.5\n",
    ):
        assert part in text, part


def test_what_is_not_known_is_said():
    text = model_card.text(model_card.Facts("x", base_model="none", method=""))
    card = read(text)
    assert card.data.eval_results is None
    assert "base_model" not in card.data.to_dict()
    assert "* **Method**: not recorded\n* **Data**: not recorded" in text
    assert "The command was not recorded." in text
    assert "Metrics" not in text
    with pytest.raises(
        ValueError, match="base_id is '/tmp/x/y'; it must be owner/name"
    ):
        model_card.text(FACTS._replace(base_id="/tmp/x/y"))


def test_a_command_cannot_end_its_block():
    text = model_card.text(FACTS._replace(command="echo '```'\n# and on"))
    assert "````bash\necho '```'\n# and on\n````\n" in text
