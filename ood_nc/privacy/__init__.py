"""Private fine-tuning: a head on frozen features with differential privacy, and what decides how well that can work."""

from ood_nc.privacy.accounting import (
    ACCOUNTANTS,
    ADJACENCY,
    Mechanism,
    epsilon_of,
    gaussian_delta,
    gaussian_epsilon,
    noise_for,
    zcdp_epsilon,
)
from ood_nc.privacy.audit import audited_epsilon
from ood_nc.privacy.dimension import one_step_errors, predicted_error, shift_threshold
from ood_nc.privacy.head import PrivateHead, fit_private_head
from ood_nc.privacy.remedies import Preparation, private_preparation, public_preparation
from ood_nc.privacy.shift import feature_shift
from ood_nc.privacy.statement import Statement, compose
from ood_nc.privacy.training import dp_sgd, noisy_gd

__all__ = [
    "ACCOUNTANTS",
    "ADJACENCY",
    "Mechanism",
    "Preparation",
    "PrivateHead",
    "Statement",
    "audited_epsilon",
    "compose",
    "dp_sgd",
    "epsilon_of",
    "feature_shift",
    "fit_private_head",
    "gaussian_delta",
    "gaussian_epsilon",
    "noise_for",
    "noisy_gd",
    "one_step_errors",
    "predicted_error",
    "private_preparation",
    "public_preparation",
    "shift_threshold",
    "zcdp_epsilon",
]
