"""What PPO, GRPO and replay on top of them share, and each method's own settings."""

from ml_collections import config_dict

from experiments.configs import offline

# What is known of the settings of Dou et al., 2025 (arXiv:2504.14363). The paper prints
# none of them. "Code" is its authors' public code from the same months, which learns
# code by PPO with replay; "sibling" is their other papers of that PPO; "ours" is chosen
# here, since nothing is known.
PAPER = "rrl_paper"
SCALES = ("smoke", "arithmetic", offline.COUNTDOWN, "gsm8k", PAPER)


def shared(scale: str) -> config_dict.ConfigDict:
    """The settings that do not depend on the method."""
    config = offline.shared("gsm8k" if scale == PAPER else scale, SCALES)
    del config.data, config.drift  # of logs
    del config.optimizer.wait  # ppo.warmup says it in steps

    # As a reward `stated` is too easily earned: any text that ends in a number answers.
    config.task.reading = "form"

    config.rollout = config_dict.ConfigDict()
    config.rollout.steps = 200  # of the run; each samples, then learns
    # The step in which so many tokens are sampled is the last; 0: no limit. Schedules
    # go by steps all the same: let rollout.steps be what the tokens are enough for.
    config.rollout.tokens = 0
    config.rollout.groups = 32  # problems of a step
    config.rollout.samples = 8  # answers to each
    config.rollout.temperature = 1.0
    config.rollout.slots = 64  # answers under way at a time
    config.rollout.prompt_tokens = 32  # of the longest prompt
    config.rollout.max_tokens = 96  # of an answer, a replayed state included
    config.rollout.window = 8  # bare tries that say whether a problem is solved

    config.loss = config_dict.ConfigDict()
    config.loss.epochs = 1  # passes over the answers of a step
    config.loss.batch_groups = 32  # of an update
    config.loss.low = 0.2  # of the clip
    config.loss.high = 0.2  # larger than low: clip-higher
    config.loss.weights = "token"  # sequence, fixed: what counts alike in the mean
    config.loss.ratio = "token"  # answer: GSPO's, whose clip is about 3e-4
    config.loss.kl_weight = 0.0  # of the divergence from the reference, in the loss
    config.loss.entropy_weight = 0.0

    # pass@k of sampled answers, before and after the run; eval.samples are drawn.
    config.eval.pass_k = (1, 8, 64)
    config.eval.samples = 64
    config.log.checkpoint_every_updates = 50
    # Steps between two readings of rollout/kl where nothing else reads the reference:
    # one update a step, no critic, loss.kl_weight=0. It moves nothing. 0: never.
    config.log.kl_every_steps = 10
    config.optimizer.learning_rate = 3e-5
    if scale == "smoke":
        config.rollout.steps = 4
        config.rollout.groups = 4
        config.rollout.samples = 2
        config.rollout.slots = 4
        config.rollout.max_tokens = 32
        config.loss.batch_groups = 2
        config.eval.max_tokens = 32
        config.log.kl_every_steps = 2
        config.eval.pass_k = (1, 4)
        config.eval.samples = 4
    if scale == "gsm8k":
        config.rollout.prompt_tokens = 512
        config.rollout.max_tokens = 512
        config.loss.batch_groups = 8
        config.optimizer.learning_rate = 1e-6
    if scale == PAPER:
        _as_in_paper(config)
    return config


def _as_in_paper(config: config_dict.ConfigDict) -> None:
    """A model and files that flags name, GSM8K's or MATH's; see `PAPER`."""
    config.rollout.steps = 1_000  # code
    config.rollout.groups = 32  # ours
    config.rollout.samples = 16  # siblings; code draws 1
    config.rollout.temperature = 1.0  # ours; siblings 0.8 with top-p 0.9, code 0.2
    config.rollout.prompt_tokens = 1_024  # code: a context of 2,048 ...
    config.rollout.max_tokens = 1_024  # ... with so many new ones
    config.loss.epochs = 1  # code
    config.loss.batch_groups = 8  # ours
    config.loss.low = config.loss.high = 0.2  # code, siblings
    config.model.param_dtype = "bfloat16"  # code; stepped in float32
    optimizer = config.optimizer
    optimizer.learning_rate = 1e-6  # code; siblings 5e-7
    # Code rises over 50 updates and falls with the inverse square root of their number.
    # Here the rate rises over as large a share, and falls as a cosine to 0.
    optimizer.warmup = 0.05
    optimizer.b1, optimizer.b2, optimizer.epsilon = 0.9, 0.95, 1e-6  # code, siblings
    optimizer.max_grad_norm, optimizer.weight_decay = 1.0, 0.0  # code
    config.eval.prompt_tokens = 1_024
    config.eval.max_tokens = 1_024
    config.eval.every_updates = 50 * 4  # code: every 50 steps, of 4 updates here
    config.eval.samples, config.eval.pass_k = 64, (1, 8, 64)  # ours


def ppo(scale: str) -> config_dict.ConfigDict:
    """Settings of PPO alone."""
    config = config_dict.ConfigDict()
    config.warmup = 10  # steps in which the critic learns alone
    config.gamma = 1.0
    config.lambda_ = 0.95
    config.critic_lambda = 0.95  # of the critic's targets; 1 while it warms up
    # Of the divergence from the reference, in the reward of the advantages: V is of the
    # raw reward, and no baseline is taken off the costs to come.
    config.beta = 0.0
    # Advantages are divided by their deviation in a step, but by no less than this.
    config.least_deviation = 0.0
    config.value_clip = 0.2  # how far V may move in the passes of a step; 0: no limit
    # shared_trunk: a linear probe of the policy's states, whose gradient never reaches
    # the trunk. adapter: beside the reference.
    config.value = "own_trunk"
    config.learning_rate = 9e-5  # of the critic: three times the policy's
    config.epsilon = 1e-8  # of the critic's Adam
    config.lora_rank = 64  # of value=adapter
    config.lora_alpha = 64.0
    if scale == "smoke":
        config.warmup = 1
    if scale in ("gsm8k", PAPER):
        config.learning_rate = 3e-6
    if scale == PAPER:
        config.warmup = 10  # ours; code has none
        config.gamma, config.lambda_ = 1.0, 0.95  # code, siblings
        config.beta = 0.05  # code, siblings
        config.epsilon = 1e-8  # code
        config.value_clip = 0.2  # code, siblings
    return config


def grpo(scale: str) -> config_dict.ConfigDict:
    """Settings of GRPO alone."""
    del scale
    config = config_dict.ConfigDict()
    config.advantage = "standardised"  # centred: Dr.GRPO's
    config.drop_level = False  # groups without a difference count in no mean
    return config


def replay(scale: str) -> config_dict.ConfigDict:
    """Settings of retrospective replay."""
    config = config_dict.ConfigDict()
    # Of groups that go on from a stored state, at its highest. The most that cost no
    # success that could be told from chance: docs/results/rrl.md.
    config.share = 0.1
    config.most = 0.5  # of a step's groups
    config.ramp = 0.1  # of the steps after the warm-up, in which the share rises
    config.fade = 0.2  # of them, at the end, in which it falls to 0
    config.solved_at = 0.8  # bare success that ends a problem's replay
    config.cells = 8  # states of a problem
    config.state_tokens = 64  # of the longest; longer ones are refused
    config.tail = 0.1  # share at an answer's end that is in no state
    config.where = ""  # return, value, entropy, random; empty: return, or entropy
    config.score = ""  # return, value, group; empty: return, or group without a critic
    config.choice = "difficulty"  # visits, alike, bandit
    config.target = 0.5  # of choice=difficulty: share of right answers that is sought
    config.strength = 4.0  # tries that a state's score is worth
    config.explore = 0.2  # of choice=bandit: the chance of any state alike
    config.promoted = 4.0  # how much likelier states are that people promoted; 1: alike
    # Least explained variance of a critic that is believed: no worse than the mean. Of
    # rare rewards no critic explains the tenth that was asked for at first.
    config.explained = 0.0
    config.proposes_below = 0.2  # bare success below which right answers propose, too
    config.refresh = 10  # steps between two looks of the critic at all states
    config.rescore = True  # by the critic; else a state keeps its first score
    config.dead_after = 16  # tries without a right answer
    # Above 0: states are of right answers alone, so many of each, and of no critic.
    config.proven = 0
    config.anywhere = False  # a replayed group may leave its problem for another
    config.canonical = 0  # states from a problem's written solution, at most 2
    if scale == "smoke":
        config.share = config.most = 0.5
        config.ramp = config.fade = 0.0
        config.cells = 2
        config.state_tokens = 24
        config.explained = -100.0  # a critic of two updates
        config.refresh = 2
    if scale == "gsm8k":
        config.state_tokens = 256
    if scale == PAPER:
        config.cells = 10  # code
        config.state_tokens = 512  # ours
        # Code goes on from a state in 0.95 of all tries, at once, and weighs states by
        # how seldom they were chosen. A share near 1 starves what an answer begins
        # with, so the share and its rise and fall are ours.
        config.share, config.most, config.ramp, config.fade = 0.25, 0.5, 0.1, 0.2
    return config
