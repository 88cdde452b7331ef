"""The classifier two-sample test: how well a small network tells two samples apart.

0.5 means not at all, 1 means always. As in Lueckmann et al. (2021), arXiv 2101.04653, section 4 and appendix: coordinates
standardised by the reference sample, a multi-layer perceptron with two hidden layers of ten units a dimension, the mean
accuracy in five-fold cross-validation. Reference: Lopez-Paz, Oquab (2017), Revisiting classifier two-sample tests, arXiv
1610.06545.

The accuracy depends on the number of samples: with few, the classifier finds less. Compare numbers of equal size only. For n
samples each, two equal laws give 0.5 with a standard deviation of about 0.5 / sqrt(2 n), 0.011 for 1000 and a little more
because folds share training data. Angles must be given as cosines and sines, directions as unit vectors: a seam separates by
itself.
"""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor


def c2st(reference: Tensor, sample: Tensor, *, seed: int = 0, n_folds: int = 5, max_epochs: int = 1000) -> float:
    """Cross-validated accuracy of a classifier between samples (n,f) and (m,f) of equal size.

    With few samples in more than three dimensions the classifier memorises instead of converging; ``max_epochs=50`` then
    costs a tenth of the time and finds as much.

    Raises:
        ValueError: samples of other shapes, or with entries that are not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    if reference.ndim != 2 or reference.shape != sample.shape:
        raise ValueError(f"Expected two samples of one shape (n, f), got {tuple(reference.shape)} and {tuple(sample.shape)}.")
    joined = np.concatenate([reference.double().numpy(), sample.double().numpy()])
    if not np.isfinite(joined).all():
        raise ValueError("Expected finite samples; remove or repair the rows that are not.")
    n, width = len(reference), 10 * reference.shape[1]
    spread = joined[:n].std(0)
    joined = (joined - joined[:n].mean(0)) / np.where(spread > 0, spread, 1.0)
    labels = np.repeat([0, 1], n)
    network = MLPClassifier((width, width), max_iter=max_epochs, random_state=seed)
    folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(cross_val_score(network, joined, labels, cv=folds, scoring="accuracy").mean())
