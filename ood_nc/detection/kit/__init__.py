"""The toolkit that detectors are written with, this package's and those of others alike.

Detectors here import nothing private: what stands below is what a new one has.

- :mod:`~ood_nc.detection.kit.linalg`: means, distances, cosines, at a stated precision;
- :mod:`~ood_nc.detection.kit.whitening`: factors of inverse covariances, and distances under them;
- :mod:`~ood_nc.detection.kit.scatter`: scatter matrices, in the least precision that their inverse bears;
- :mod:`~ood_nc.detection.kit.subspace`: what lies outside the principal subspace;
- :mod:`~ood_nc.detection.kit.densities`: moments of transformed rows, seeded subsets, banks in blocks, class means by
  logit;
- :mod:`~ood_nc.detection.kit.softmax`: log-probabilities and log-odds that keep their digits near 1;
- :mod:`~ood_nc.detection.kit.shaping`: pruned, scaled and clipped activations, and the energy of the logits they give;
- :mod:`~ood_nc.detection.kit.perturbation`: the step against a gradient in the space of images;
- :mod:`~ood_nc.detection.kit.percentile`: exact percentiles of large matrices;
- :mod:`~ood_nc.detection.kit.neighbors`, :mod:`~ood_nc.detection.kit.approximate`,
  :mod:`~ood_nc.detection.kit.faiss_backend`: exact and approximate nearest neighbours;
- :mod:`~ood_nc.detection.kit.parameters`: hyper-parameters, each declared with what it may be.
"""
