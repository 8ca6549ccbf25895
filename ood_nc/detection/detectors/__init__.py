"""The detectors, one a file; the registry imports every file here."""
