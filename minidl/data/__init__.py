"""Data: shipped digits, readers for well-known files, datasets, and the loader that makes batches of them."""

from minidl.data.datasets import (
    ConcatDataset,
    Dataset,
    Subset,
    TensorDataset,
    TransformedDataset,
    random_split,
    train_test_split,
)
from minidl.data.loader import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from minidl.data.readers import DataError, ImageData, digits, load_idx, load_images, load_npz
from minidl.data.tokenizers import BPETokenizer, CharTokenizer, Vocab, WordTokenizer, pad_sequences
from minidl.data.transforms import Compose, Normalize, RandomHorizontalFlip, RandomShift, ToFloat

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
    "TransformedDataset",
    "random_split",
    "train_test_split",
    # batches
    "DataLoader",
    "default_collate",
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
