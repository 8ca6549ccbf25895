"""Data: one class for every source, transforms, scans, splits, and the benchmark suites."""

from __future__ import annotations

from ood_nc.data.adapters import as_dataset
from ood_nc.data.dataset import BrokenImageError, ImageDataset, align_classes
from ood_nc.data.inputs import (
    HELD_OUT_TRAIN,
    VALIDATION_OOD,
    Inputs,
    Source,
    TransferSource,
    ood_key,
    prepare,
    public_name,
    transfer_keys,
)
from ood_nc.data.jumbled import jumbled
from ood_nc.data.label_sets import LabelSetDataset, LabelSetInputs, compose, load_label_sets, read_table
from ood_nc.data.layout import NoImagesError
from ood_nc.data.native_sizes import NativeSizes, native_sizes, size_cue
from ood_nc.data.outliers import check_outliers, load_outliers
from ood_nc.data.overlap import Overlap, find_overlaps
from ood_nc.data.registry import SOURCES, OpenSource
from ood_nc.data.run_data import load_data
from ood_nc.data.scan import ScanReport, scan, shared_class_names
from ood_nc.data.sources import list_datasets, open_dataset
from ood_nc.data.splits import limit_per_class, limit_total, stratified_split
from ood_nc.data.stream import ImageStream, StreamBatch
from ood_nc.data.suites import list_suites, load_suite
from ood_nc.data.testing import check_source
from ood_nc.data.transforms import eval_transform, train_transform

__all__ = [
    "HELD_OUT_TRAIN",
    "SOURCES",
    "VALIDATION_OOD",
    "BrokenImageError",
    "ImageDataset",
    "ImageStream",
    "Inputs",
    "LabelSetDataset",
    "LabelSetInputs",
    "NativeSizes",
    "NoImagesError",
    "OpenSource",
    "Overlap",
    "ScanReport",
    "Source",
    "StreamBatch",
    "TransferSource",
    "align_classes",
    "as_dataset",
    "check_outliers",
    "check_source",
    "compose",
    "eval_transform",
    "find_overlaps",
    "jumbled",
    "limit_per_class",
    "limit_total",
    "list_datasets",
    "list_suites",
    "load_data",
    "load_label_sets",
    "load_outliers",
    "load_suite",
    "native_sizes",
    "ood_key",
    "open_dataset",
    "prepare",
    "public_name",
    "read_table",
    "scan",
    "shared_class_names",
    "size_cue",
    "stratified_split",
    "train_transform",
    "transfer_keys",
]
