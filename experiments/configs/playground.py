"""What every method on Playground-Text shares: world, model, evaluation, run.

Two methods compared on the same scale read the same block from here.
"""

from ml_collections import config_dict

SCALES = ("smoke", "quickstart", "playground", "paper", "smollm2", "flan_t5")


def shared(scale: str) -> config_dict.ConfigDict:
    """The settings that do not depend on the method."""
    if scale not in SCALES:
        raise ValueError(f"scale is one of {', '.join(SCALES)}, got {scale!r}")
    config = config_dict.ConfigDict()
    config.seed = 0
    # jit: one device; pmap: data parallel; mesh: the same, dealt out by the compiler.
    config.parallel = "jit"
    config.num_devices = 0  # of pmap and mesh; 0 takes all there are
    config.total_env_steps = 64_000
    config.resume = "auto"  # auto, never, or the update to go on from

    config.env = config_dict.ConfigDict()
    config.env.world = "a"  # a: IMAGINE's objects, b: the recorded reference
    config.env.num_objects = 6
    config.env.inventory = 2
    # Steps an episode may take: the most at which random play succeeds at no more than
    # 0.35 of the Grasp goals: 0.335 at 17, 0.351 at 18 (400,000 episodes each).
    config.env.limit = 17
    config.env.history = 0  # earlier commands shown in the prompt
    config.env.sequences = False  # goals "Grow x then grasp y" too

    config.model = config_dict.ConfigDict()
    # A Hugging Face folder, a .gguf or llama2.c .bin file, or smollm2; empty: a model
    # of `size`, from random weights.
    config.model.path = ""
    config.model.size = "tiny"  # or small, base; not read where there is a path
    config.model.param_dtype = ""  # float32, bfloat16; empty: the model's own
    config.model.dtype = ""  # of activations, the same
    config.model.remat = False  # of a model with a path: less memory, more time
    config.model.chat = False  # prompts inside the tokenizer's chat template
    config.model.tokenizer = ""  # a Hugging Face folder; empty: words of the world
    config.model.head_width = 128  # of the Q or V head
    config.model.read_q = "path"  # Q of a command: from all its tokens, or last_node
    config.model.head_std = 0.5  # of its last layer's first weights, over sqrt(fan-in)

    # Adapters beside the frozen weights of model.path; rank 0: the whole model learns.
    config.lora = config_dict.ConfigDict()
    config.lora.rank = 0
    config.lora.alpha = 32.0  # the correction is times alpha / rank
    config.lora.targets = ()  # matrices, as PEFT calls them; none: all of a layer

    # Pretraining on text from random play, before learning; 0 updates: none.
    config.warm_start = config_dict.ConfigDict()
    config.warm_start.updates = 0
    config.warm_start.num_envs = 64
    config.warm_start.learning_rate = 1e-3

    config.eval = config_dict.ConfigDict()
    config.eval.every_env_steps = 12_800
    config.eval.scenes = 128  # per kind of goal, while training
    config.eval.final_scenes = 500  # per kind of goal, before and after
    config.eval.seed = 10_007  # of the panels; not the run's seed
    config.eval.episodes_shown = 8  # in the report

    config.log = config_dict.ConfigDict()
    config.log.checkpoint_every_updates = 2_000
    config.log.keep_checkpoints = 2

    if scale == "smoke":
        config.total_env_steps = 512
        config.env.num_objects = 5
        config.eval.every_env_steps = 256
        config.eval.scenes = 8
        config.eval.final_scenes = 8
        config.eval.episodes_shown = 2
        config.log.checkpoint_every_updates = 20
    if scale in ("playground", "paper"):
        config.env.num_objects = 8
        config.env.sequences = True
        config.env.history = 6
        config.env.limit = 16
        config.total_env_steps = 64_000
        config.eval.scenes = 64
        config.eval.final_scenes = 128
    if scale == "paper":
        # Of PPO-GLAM; SAC-GLAM's later code counts 500,000 episodes. It shows the
        # policy no earlier commands, which sequences need here: `history` stays.
        config.total_env_steps = 1_500_000
    if scale in ("smollm2", "flan_t5"):
        # For an accelerator: on two CPU cores an update takes minutes.
        config.env.num_objects = 5
        config.total_env_steps = 20_000
        config.model.dtype = "bfloat16"
        config.model.read_q = "last_node"  # which has read the whole command
        config.eval.every_env_steps = 2_000
        config.eval.scenes = 32
        config.eval.final_scenes = 64
        config.log.checkpoint_every_updates = 200
    if scale == "smollm2":
        config.model.path = "smollm2"
        config.model.param_dtype = "bfloat16"  # of what is frozen; adapters are float32
        config.model.chat = True
        config.model.remat = True
        config.lora.rank = 16
    if scale == "flan_t5":
        config.model.path = "flan-t5"  # a folder: there is no T5 that pip installs
    return config
