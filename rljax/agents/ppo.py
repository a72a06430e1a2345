"""What PPO with a critic learns from a rollout of answers, token by token.

    r_t = R at the end - beta (log p_old - log p_ref)
    A_t = GAE(r, V),    G_t = GAE(R, V) + V

V is of the raw reward, so that it says of a state how likely a right answer is, and the
cost of leaving the reference is in the advantages alone, without a baseline:

    A_t = GAE(R, V)_t - beta sum_k (gamma lambda)^k (log p_old - log p_ref)_{t+k}

While the critic warms up its targets are the rewards themselves (lambda 1): from a V of
zeros there is nothing to bootstrap. Bare and replayed answers are whitened apart, each
kind over all devices.

Source: Schulman et al., 2017 (arXiv:1707.06347); Ouyang et al., 2022
(arXiv:2203.02155); for the critic Yue et al., 2025 (arXiv:2504.05118).
"""

import dataclasses

import jax.numpy as jnp

from rljax.agents.token_rl import Estimate, Rollout, Targets
from rljax.losses import token_returns
from rljax.types import Metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How advantages and the critic's targets are made."""

    gamma: float = 1.0
    lambda_: float = 0.95  # of the advantages, and of states' scores
    critic_lambda: float = 0.95  # of the critic's targets; 1 while it warms up
    beta: float = 0.0  # of the divergence from the reference, in the reward
    # Advantages are divided by their standard deviation, but by no less than this.
    # Where every answer of a rollout is wrong all that varies is what the critic is
    # wrong by, and whitened it would move the policy as far as a success does.
    least_deviation: float = 0.0


def estimate(config: Config) -> Estimate:
    """Advantages from a critic.

    Metrics: `critic/explained_variance` of the rewards to come, before any update.

    Args:
      config: settings.
    """

    def of(rollout: Rollout) -> tuple[Targets, Metrics]:
        assert rollout.value is not None and rollout.log_p_ref is not None
        mask = rollout.mask & rollout.judged[:, None]
        value = jnp.where(mask, rollout.value, 0.0)
        raw = token_returns.reward_at_end(rollout.reward, mask)
        cost = token_returns.kl_reward(
            rollout.log_p, rollout.log_p_ref, mask, config.beta
        )

        def gae(reward, lambda_):
            return token_returns.token_gae(reward, value, mask, config.gamma, lambda_)

        advantage = gae(raw + cost, config.lambda_)
        critic_lambda = jnp.where(rollout.warming, 1.0, config.critic_lambda)
        # Without V in it: what V adds and takes away again leaves rounding, and where
        # no answer was right that is all the variance there is.
        nothing = jnp.zeros_like(value)
        to_come = token_returns.token_gae(raw, nothing, mask, config.gamma, 1.0)
        found = token_returns.explained_variance(value, to_come, mask)
        targets = Targets(
            advantage=token_returns.whiten_apart(
                advantage, mask, rollout.replayed, least=config.least_deviation
            ),
            learn=mask,
            taught=mask,
            returns=gae(raw, critic_lambda) + value,
            score=gae(raw, config.lambda_) + value,
        )
        return targets, {"critic/explained_variance": found}

    return of
