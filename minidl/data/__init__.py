"""Data: shipped digits, readers for well-known files, datasets, and the loader that makes batches of them."""

from minidl.data.collate import default_collate, default_convert
from minidl.data.datasets import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    NextTokenDataset,
    StackDataset,
    Subset,
    TensorDataset,
    TransformedDataset,
)
from minidl.data.loader import DataLoader
from minidl.data.readers import DataError, ImageData, digits, load_idx, load_images, load_npz
from minidl.data.samplers import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from minidl.data.splits import random_split, train_test_split
from minidl.data.tokenizers import BPETokenizer, CharTokenizer, Vocab, WordTokenizer, pad_sequences
from minidl.data.transforms import Compose, Normalize, RandomHorizontalFlip, RandomShift, ToFloat
from minidl.data.workers import WorkerInfo, get_worker_info

__all__ = [
    # real data
    "digits",
    "load_images",
    "load_idx",
    "load_npz",
    "ImageData",
    "DataError",
    # datasets
    "Dataset",
    "TensorDataset",
    "Subset",
    "ConcatDataset",
    "StackDataset",
    "IterableDataset",
    "ChainDataset",
    "NextTokenDataset",
    "TransformedDataset",
    "random_split",
    "train_test_split",
    # batches
    "DataLoader",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "WorkerInfo",
    "Sampler",
    "SequentialSampler",
    "RandomSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "BatchSampler",
    # text
    "CharTokenizer",
    "WordTokenizer",
    "BPETokenizer",
    "Vocab",
    "pad_sequences",
    # transforms
    "Compose",
    "ToFloat",
    "Normalize",
    "RandomShift",
    "RandomHorizontalFlip",
]
