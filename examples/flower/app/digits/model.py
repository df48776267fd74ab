"""A small network for real images of digits (8 by 8, UCI's, as scikit-learn brings them)."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

HIDDEN = 256
HELD_OUT = 297
Weights = list[np.ndarray]
"""Two layers: [64, 256], [256], [256, 10], [10], float32; 76 KiB."""


def start() -> Weights:
    """The weights that everybody begins with."""
    chance = np.random.default_rng(1)
    shapes = ((64, HIDDEN), (HIDDEN,), (HIDDEN, 10), (10,))
    scales = (0.2, 0.0, 0.1, 0.0)
    return [
        (chance.standard_normal(shape) * scale).astype(np.float32)
        for shape, scale in zip(shapes, scales, strict=True)
    ]


def images(site: int | None, sites: int) -> tuple[np.ndarray, np.ndarray]:
    """What one site has, pixels [n, 64] and digits [n]; without a site what nobody trains on."""
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(digits))
    mine = order[:HELD_OUT] if site is None else order[HELD_OUT:][site::sites]
    return pixels[mine], digits[mine]


def forward(weights: Weights, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the hidden units say, and the chances of the ten digits."""
    first, first_bias, second, second_bias = weights
    hidden = np.maximum(pixels @ first + first_bias, 0)
    scores = hidden @ second + second_bias
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, chances / chances.sum(axis=1, keepdims=True)


def accuracy(weights: Weights, pixels: np.ndarray, digits: np.ndarray) -> float:
    """The share of images that it reads right."""
    return float((forward(weights, pixels)[1].argmax(axis=1) == digits).mean())


def train(weights: Weights, pixels: np.ndarray, digits: np.ndarray, epochs: int) -> Weights:
    """Stochastic gradient descent over a site's images."""
    chance = np.random.default_rng(2)
    for _ in range(epochs):
        for batch in np.array_split(chance.permutation(len(digits)), len(digits) // 16):
            hidden, chances = forward(weights, pixels[batch])
            chances[np.arange(len(batch)), digits[batch]] -= 1
            chances /= len(batch)
            back = (chances @ weights[2].T) * (hidden > 0)
            steps = (pixels[batch].T @ back, back.sum(0), hidden.T @ chances, chances.sum(0))
            weights = [part - 0.3 * step for part, step in zip(weights, steps, strict=True)]
    return weights
