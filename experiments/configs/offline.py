"""What every method that learns from logs shares: model, task, data, evaluation."""

from collections.abc import Sequence

from ml_collections import config_dict

# Settings of Wang et al., 2024 (arXiv:2412.16145), tables and scripts.
PAPER = ("qwen2.5_math_1.5b", "deepseekmath_7b", "minicpm_2b")
SCALES = ("smoke", "arithmetic", "gsm8k", *PAPER)
COUNTDOWN = "countdown"  # a scale of those that learn from problems alone


def shared(scale: str, scales: Sequence[str] = SCALES) -> config_dict.ConfigDict:
    """The settings that do not depend on the method, which has these scales."""
    if scale not in scales:
        raise ValueError(f"scale is one of {', '.join(scales)}, got {scale!r}")
    config = config_dict.ConfigDict()
    config.seed = 0
    # jit: one device; pmap: data parallel; mesh: the same, dealt out by the compiler.
    config.parallel = "jit"
    config.num_devices = 0  # of pmap and mesh; 0 takes all there are
    config.resume = "auto"  # auto, never, or the update to go on from

    config.model = config_dict.ConfigDict()
    # A Hugging Face folder, such as hf/ of an earlier workdir, a .gguf file or
    # smollm2. Empty, for sft alone: a decoder of the sizes below, from random weights.
    config.model.path = ""
    # What the policy begins as, whole weights of the same kind of model; empty: as the
    # reference, which model.path is in any case.
    config.model.policy = ""
    config.model.width = 160
    config.model.layers = 4
    config.model.heads = 4
    config.model.mlp_width = 432
    config.model.param_dtype = ""  # float32, bfloat16; empty: the model's own
    config.model.dtype = ""  # of activations, the same
    config.model.remat = False  # less memory, more time

    # Adapters beside the frozen weights of model.path; rank 0: the whole model learns.
    config.lora = config_dict.ConfigDict()
    config.lora.rank = 0
    config.lora.alpha = 32.0
    config.lora.targets = ()  # matrices, as PEFT calls them; none: all of a layer

    config.task = task()

    config.data = config_dict.ConfigDict()
    # A log, or several with a comma between two, read one after the other; empty, for
    # sft alone: the task's own solutions.
    config.data.path = ""
    config.data.on_error = "stop"  # or skip: bad lines go to rejects.jsonl
    # Texts that end a step of an answer, where the log has no steps of its own. Empty:
    # the ends of lines, and for math those of sentences too: "\\n", ". ", ".$ ".
    config.data.delimiters = ()
    config.data.row_tokens = 256  # texts are packed into rows; 0: the longest text's
    config.data.batch_size = 128  # episodes, pairs or answers of an update
    config.data.epochs = 1
    # Train until so many tokens were read, in as many epochs as that takes; 0: epochs.
    config.data.tokens = 0
    # Answers to one problem come one after the other, mostly in one batch.
    config.data.by_task = False
    config.data.flip = 0.0  # share of rewards turned round, to see what noise does

    config.optimizer = config_dict.ConfigDict()
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup = 0.03  # share of the updates
    config.optimizer.max_grad_norm = 1.0
    config.optimizer.weight_decay = 0.0
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.95
    config.optimizer.epsilon = 1e-8
    # Share of the updates in which the policy stands still, such as until OREO's value
    # has learnt something.
    config.optimizer.wait = 0.0

    config.eval = config_dict.ConfigDict()
    config.eval.split = "dev"  # or test
    config.eval.problems = 0  # of the split; 0: all
    config.eval.every_updates = 0  # 0: before and after
    config.eval.before = True
    config.eval.samples = 0  # beside the greedy answer, at temperature 1; 0: none
    config.eval.batch = 64  # answers under way at a time
    config.eval.prompt_tokens = 32  # bucket of the longest prompt
    config.eval.max_tokens = 96

    config.drift = drift()

    config.log = config_dict.ConfigDict()
    config.log.checkpoint_every_updates = 500
    config.log.keep_checkpoints = 2
    _scale(config, scale)
    return config


ROOM = ("batch", "prompt_tokens", "max_tokens")  # what answering needs of eval
_OF_LEARNING = (
    *("parallel", "num_devices", "resume", "lora", "data", "optimizer", "drift"),
    "log",
)


def asking(scale: str) -> config_dict.ConfigDict:
    """Those of the shared settings that are of use where nothing is learnt."""
    config = shared(scale)
    for key in _OF_LEARNING:
        del config[key]
    del config.model.policy
    for key in [key for key in config.eval if key not in ROOM]:
        del config.eval[key]
    return config


def _scale(config: config_dict.ConfigDict, scale: str) -> None:
    """Small sizes for a check, large ones for models from files."""
    if scale == "smoke":
        config.model.width = 32
        config.model.layers = 1
        config.model.heads = 2
        config.model.mlp_width = 64
        config.task.solved_size = 64
        config.task.train_size = 64
        config.task.dev_size = 8
        config.task.test_size = 8
        config.data.batch_size = 16
        config.eval.batch = 8
        config.drift.sample = 32
    if scale == COUNTDOWN:
        config.task.name = "countdown"
    if scale in ("arithmetic", COUNTDOWN):
        config.data.row_tokens = 128  # attention within a row costs its square
    if scale == "gsm8k" or scale in PAPER:
        config.task.name = "gsm8k"
        config.task.solved_size = 0  # all that are not held out, for both
        config.task.train_size = 0
        config.task.test_size = 0
        config.data.row_tokens = 1_024
        config.eval.prompt_tokens = 512
        config.eval.max_tokens = 512
        config.model.dtype = "bfloat16"
        config.model.remat = True
    if scale in PAPER:
        asked = {"qwen2.5_math_1.5b": "chat", "deepseekmath_7b": "deepseek_math"}
        config.task.prompt = asked.get(scale, "line")
        config.model.param_dtype = "bfloat16"  # stepped in float32
        config.eval.max_tokens = 2_048
        # All that `collect` may write. The paper has 2,048, and cuts off what is more.
        row = config.eval.prompt_tokens + config.eval.max_tokens
        config.data.row_tokens = 4_096 if scale == "minicpm_2b" else row


def task() -> config_dict.ConfigDict:
    """What is asked, how it is put, and who says what is right."""
    config = config_dict.ConfigDict()
    # countdown; gsm8k, math: their files at task.train, task.test; gym
    config.name = "arithmetic"
    config.gym = "chain_sum"  # with task.name=gym: the dataset of reasoning-gym
    # How a question is put: line (it and the end of its line), question (as it is),
    # deepseek_math, chat (the tokenizer's template, the system message of the task).
    config.prompt = "line"
    # Where a response's answer is. form: where it is asked for, after "####" or in a
    # box. stated: in its last box, after its last "he answer is", or its last number.
    # Empty: stated for gsm8k and math, as in the paper; form for others.
    config.reading = ""
    # exact: the task's own, in this process. math_verify, for gsm8k and math: SymPy
    # says what is equal, in processes of which one that takes too long is ended. gym,
    # for gym: a score of 1, in such processes.
    config.verifier = "exact"
    config.verifier_workers = 2
    config.verifier_seconds = 10.0  # for an answer
    config.train = config.test = ""  # no test: test_size of train, by seed
    config.solved_size = 4_000  # problems with written solutions, for sft
    config.drills = 0  # of arithmetic, solved sums beside them: see `drills`
    config.train_size = 2_000  # others, to collect answers to; 0 of a file: all
    config.dev_size = 500  # problems to choose settings with
    config.test_size = 1_000  # 0: all of the file test; without one, none
    config.seed = 1  # of problems that are drawn
    config.largest = 20  # number of a problem
    config.operations = (3, 5)  # of arithmetic
    config.factor = 5
    config.numbers = (3, 4)  # of countdown
    config.target = (10, 100)
    # Habits of those who wrote arithmetic's solutions; see `arithmetic.Config`.
    config.merged = 0.0
    config.careless = 0.0
    config.hasty = 0.0
    config.modulus = 0  # what results are taken modulo; 0: as they are
    config.products = 0.35  # chance of a product, where one may stand
    config.signs = "+-"  # between the others: +-, + or -
    return config


def drift() -> config_dict.ConfigDict:
    """What is looked at in the log at every evaluation, and what raises an alarm.

    Nats are those of a token; see `rljax.training.drift`.
    """
    config = config_dict.ConfigDict()
    config.sample = 256  # episodes; 0: none
    config.batch = 16  # read at a time
    config.kl = 0.5  # nats from the reference
    config.group_kl = 1.0  # the same on one source, length or task
    config.length = 0.25  # nats by which long answers gain over short, or lose
    config.right = -0.25  # log-ratio of right answers: below, they are unlearnt
    config.unseen = 0.02  # probability on tokens that the data never show
    return config


def as_in_paper(config: config_dict.ConfigDict, scale: str) -> None:
    """OREO's own settings in the paper.

    Its MiniCPM learnt ALFWorld from conversations; 3 epochs as printed, the released
    script has 5. Policy and value have learning rate 5e-6, the 7B's LoRA critic 1e-4.
    """
    config.beta = 0.03
    config.kl_weight = None  # 0.01, 0.1 or 0.3, as is the level
    config.data.epochs = {"deepseekmath_7b": 2, "minicpm_2b": 3}.get(scale, 1)
    config.optimizer.learning_rate = config.critic.learning_rate = 5e-6
    if scale == "deepseekmath_7b":
        config.value = "adapter"
        config.critic.learning_rate = 1e-4
