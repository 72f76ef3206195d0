"""Data: shipped digits and sunspots, readers for well-known files, datasets, and the loader that makes batches."""

from minidl.data.any_file import load_data
from minidl.data.bpe import BPETokenizer
from minidl.data.cifar import load_cifar
from minidl.data.collate import default_collate, default_convert
from minidl.data.csv_files import Table, load_columns, load_csv
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
from minidl.data.errors import DataError
from minidl.data.image_folder import DatasetFolder, ImageFolder, load_picture
from minidl.data.loader import DataLoader
from minidl.data.mixing import CutMix, MixUp
from minidl.data.padding import pad_sequences
from minidl.data.readers import ImageData, digits, load_idx, load_images, load_npz
from minidl.data.samplers import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from minidl.data.series import sunspots
from minidl.data.splits import random_split, train_test_split
from minidl.data.text_files import load_lines, load_text
from minidl.data.textures import texture_patches
from minidl.data.tokenizers import CharTokenizer, Vocab, WordTokenizer
from minidl.data.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Grayscale,
    Lambda,
    Normalize,
    Pad,
    RandomAffine,
    RandomApply,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotation,
    RandomShift,
    RandomVerticalFlip,
    Resize,
    ToFloat,
    ToTensor,
)
from minidl.data.workers import WorkerInfo, get_worker_info

__all__ = [
    # real data
    "digits",
    "sunspots",
    "texture_patches",
    "load_data",
    "load_images",
    "load_cifar",
    "load_idx",
    "load_npz",
    "load_csv",
    "load_columns",
    "load_text",
    "load_lines",
    "load_picture",
    "ImageData",
    "Table",
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
    "DatasetFolder",
    "ImageFolder",
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
    "Lambda",
    "RandomApply",
    "ToTensor",
    "ToFloat",
    "Normalize",
    "Resize",
    "Pad",
    "CenterCrop",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "RandomShift",
    "RandomRotation",
    "RandomAffine",
    "Grayscale",
    "ColorJitter",
    "RandomErasing",
    # whole batches
    "MixUp",
    "CutMix",
]
