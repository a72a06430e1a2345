"""How often one of k answers is right, from n of them."""

import numpy as np


def pass_at_k(right: np.ndarray, samples: int, k: int) -> float:
    """The chance that of k answers to a problem at least one is right, without bias.

        1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1..n} (1 - k / i)

    Source: Chen et al., 2021 (arXiv:2107.03374), equation 1.

    Args:
      right: c, right answers of each problem, int [N].
      samples: n, answers to each.
      k: at most n.

    Returns:
      The mean over problems.

    Raises:
      ValueError: if k is not in 1..n, there is no problem, or a count is not in 0..n.
    """
    right = np.asarray(right)
    if not 1 <= k <= samples:
        raise ValueError(f"k must lie in 1..{samples}, the answers sampled, got {k}")
    if not right.size or right.min() < 0 or right.max() > samples:
        raise ValueError(
            f"right must hold counts in 0..{samples}, one a problem, got "
            f"{right.tolist()[:20]}"
        )
    missed = [_missed(int(c), samples, k) for c in right]
    return 1.0 - sum(missed) / len(missed)


def _missed(right: int, samples: int, k: int) -> float:
    """The chance that none of k answers is right."""
    if samples - right < k:
        return 0.0
    return float(np.prod(1 - k / np.arange(samples - right + 1, samples + 1)))
