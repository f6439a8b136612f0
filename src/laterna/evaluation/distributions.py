"""Student's t, and a fair coin: the chances that the tests need, exact and without SciPy."""

from __future__ import annotations

import math


def t_tail(t: float, freedom: int) -> float:
    """Return the chance of Student's t above `t` (t >= 0) at so many degrees of freedom."""
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def t_quantile(chance: float, freedom: int) -> float:
    """Return the t that Student's t stays below with this chance (0.5 to below 1), by halving."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - chance:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - chance else (low, middle)
    return (low + high) / 2


def sign_test(fewer: int, n: int) -> float:
    """Return the two-sided chance that a fair coin falls this unevenly in n throws."""
    log_half = n * math.log(0.5)
    terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + log_half
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(map(math.exp, terms)))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function, by its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # Lentz's method, from https://dlmf.nist.gov/8.17.E22
    tiny = 1e-300
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or tiny)
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / ((1 + term * d) or tiny)
            c = (1 + term / c) or tiny
            step = c * d
            fraction *= step
        if abs(step - 1) < 1e-16:
            break
    return front * fraction / a
