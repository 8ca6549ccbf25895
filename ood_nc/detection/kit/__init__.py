"""The toolkit that every detector is written with, ours or another package's.

- :mod:`~ood_nc.detection.kit.linalg`: means, scatter matrices, whitening, in chunks and at a stated precision;
- :mod:`~ood_nc.detection.kit.subspace`: principal subspaces and what lies outside them;
- :mod:`~ood_nc.detection.kit.densities`: classes, banks and their sampling for density scores;
- :mod:`~ood_nc.detection.kit.softmax`: log-probabilities and scores made of them;
- :mod:`~ood_nc.detection.kit.percentile`: percentiles of large arrays;
- :mod:`~ood_nc.detection.kit.neighbors`, :mod:`~ood_nc.detection.kit.approximate`,
  :mod:`~ood_nc.detection.kit.faiss_backend`: exact and approximate nearest neighbours;
- :mod:`~ood_nc.detection.kit.validation`: checks of hyper-parameters, a line each.
"""
