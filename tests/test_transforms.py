"""Transforms: numbers by independent definitions (torch, NumPy, closed forms), draws by their seed."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import minidl
from minidl.data import DataLoader, Dataset
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
from minidl.random import Generator
from minidl.tensors import Tensor, wrap

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (5, 3, 7, 6), dtype=np.uint8)  # N, C, H, W


def test_to_float_and_normalize():
    image = np.array([[[0, 255], [51, 102]]] * 3, np.uint8)
    x = Compose([ToFloat(), Normalize([0.0, 0.5, 1.0], [1.0, 2.0, 4.0])])(image)
    assert x.dtype == np.float32
    # one rounding each of the division by 255, the subtraction and the division by std
    assert np.allclose(x[1], (image[1] / 255 - 0.5) / 2, rtol=0, atol=3 * 2**-24)
    batch = Normalize([0.5], [0.5])(wrap(np.ones((2, 3, 4, 4), np.float32)))
    assert isinstance(batch, Tensor)
    assert batch.array.shape == (2, 3, 4, 4)
    assert Normalize([0.5], [0.5])(np.ones((4, 4))).tolist() == np.ones((4, 4)).tolist()
    with pytest.raises(TypeError, match="apply ToFloat"):
        Normalize([0.5], [0.5])(image)
    with pytest.raises(ValueError, match="2 means"):
        Normalize([0.5, 0.5], [0.5, 0.5])(image / 255)
    with pytest.raises(ValueError, match="positive"):
        Normalize([0.5], [0.0])


def test_random_shift_moves_each_image_by_itself():
    x = np.random.default_rng(0).normal(size=(300, 2, 5, 6))
    before = x.copy()
    moved = RandomShift(1, Generator(2))(x)
    assert np.array_equal(x, before)
    seen = set()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for i in range(300):
        matches = [
            (r, c) for r in range(3) for c in range(3) if np.array_equal(moved[i], padded[i, :, r : r + 5, c : c + 6])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 9
    assert np.array_equal(RandomShift(0)(x), x)
    for shape in ((2, 5, 6), (5, 6)):
        assert RandomShift(2)(np.ones(shape)).shape == shape
    with pytest.raises(ValueError, match="negative"):
        RandomShift(-1)


def test_random_flip_flips_about_half():
    x = np.random.default_rng(0).normal(size=(400, 1, 3, 4))
    y = RandomHorizontalFlip(generator=Generator(1))(x)
    flipped = (y == x[..., ::-1]).all(axis=(1, 2, 3))
    assert np.array_equal(y[~flipped], x[~flipped])
    assert 150 < flipped.sum() < 250  # five standard errors of 400 fair coins
    assert np.array_equal(RandomHorizontalFlip(1.0)(x), x[..., ::-1])
    assert np.array_equal(RandomHorizontalFlip(0.0)(x[0]), x[0])
    assert np.array_equal(RandomHorizontalFlip(1.0)(x[0, 0]), x[0, 0, :, ::-1])
    with pytest.raises(ValueError):
        RandomHorizontalFlip(1.5)


# -- what all have in common -----------------------------------------------------------------------------------

ALL = {
    "ToFloat": lambda g: ToFloat(),
    "Resize": lambda g: Resize((4, 9)),
    "Resize, shorter side": lambda g: Resize(5, antialias=False),
    "Resize, nearest": lambda g: Resize(9, "nearest"),
    "Pad": lambda g: Pad((1, 2), 9),
    "CenterCrop": lambda g: CenterCrop((5, 4)),
    "RandomCrop": lambda g: RandomCrop((5, 4), 1, generator=g),
    "RandomHorizontalFlip": lambda g: RandomHorizontalFlip(generator=g),
    "RandomVerticalFlip": lambda g: RandomVerticalFlip(generator=g),
    "RandomShift": lambda g: RandomShift(2, generator=g),
    "RandomRotation": lambda g: RandomRotation(60, generator=g),
    "RandomAffine": lambda g: RandomAffine(20, (0.2, 0.3), (0.8, 1.2), (5, 9, -3, 3), "bilinear", 7, generator=g),
    "Grayscale": lambda g: Grayscale(),
    "Grayscale(3)": lambda g: Grayscale(3),
    "ColorJitter": lambda g: ColorJitter(0.5, 0.5, 0.5, generator=g),
    "RandomErasing": lambda g: RandomErasing(0.7, generator=g),
    "RandomApply": lambda g: RandomApply([Lambda(lambda x: 255 - x)], generator=g),
    "Compose": lambda g: Compose([RandomCrop(6, 1, generator=g), RandomHorizontalFlip(generator=g), ToFloat()]),
}


@pytest.mark.parametrize("name", ALL)
def test_kinds_and_batches_and_seeds(name):
    """Arrays, Tensors, single images and batches get the same from the same draws; the input stays as it is."""
    make = ALL[name]
    before = BYTES.copy()
    batch = make(Generator(3))(BYTES)
    assert np.array_equal(BYTES, before)
    as_tensor = make(Generator(3))(wrap(BYTES))
    assert isinstance(as_tensor, Tensor)
    assert np.array_equal(as_tensor.array, batch)
    assert np.array_equal(make(Generator(3))(BYTES), batch)
    flips_or_shift = "Flip" in name or "Shift" in name or name == "Compose"  # draw for the whole batch in one go
    if not flips_or_shift:
        one_by_one = make(Generator(3))
        assert np.array_equal(np.stack([one_by_one(image) for image in BYTES]), batch)
    assert batch.dtype == (np.float32 if name in ("ToFloat", "Compose") else np.uint8)
    if "Random" in name or name == "ColorJitter":
        assert not np.array_equal(make(Generator(4))(BYTES), batch)
    none = make(Generator(3))(BYTES[:0])
    assert none.shape == (0, *batch.shape[1:])
    if "Gray" not in name and name != "ColorJitter":
        grey = make(Generator(3))(BYTES[0, 0])
        assert grey.shape == batch.shape[-2:]
    if name != "RandomApply":
        with pytest.raises(TypeError, match="not list"):
            (make(None).transforms[0] if name == "Compose" else make(None))([1, 2])
        if name != "ToFloat":
            with pytest.raises(ValueError, match=r"not \(3,\)"):
                (make(None).transforms[0] if name == "Compose" else make(None))(np.zeros(3))


def test_draws_are_those_of_minidls_generator():
    jitter = ColorJitter(0.5)
    minidl.manual_seed(8)
    a = jitter(BYTES)
    minidl.manual_seed(8)
    assert np.array_equal(jitter(BYTES), a)
    with minidl.random.using(Generator(8)):
        assert np.array_equal(jitter(BYTES), a)
    assert not np.array_equal(jitter(BYTES), a)


def test_augmented_epochs_do_not_depend_on_workers():
    augment = Compose([ToTensor(), RandomCrop(6, 2), RandomRotation(30), ColorJitter(0.3), RandomErasing()])

    class Augmented(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return augment(wrap(BYTES[i % 5]))

    found = []
    for workers in (0, 1, 3):
        minidl.manual_seed(5)
        found.append([b.array for b in DataLoader(Augmented(), 4, True, num_workers=workers)])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


# -- numbers ---------------------------------------------------------------------------------------------------


def test_to_tensor():
    picture = Image.fromarray(BYTES[0].transpose(1, 2, 0))
    for x in (picture, BYTES[0].transpose(1, 2, 0), wrap(BYTES[0])):
        t = ToTensor()(x)
        assert isinstance(t, Tensor)
        assert t.array.dtype == np.float32
        assert np.array_equal(t.array, BYTES[0].astype(np.float32) / np.float32(255))
    assert ToTensor()(BYTES[0, 0]).shape == (1, 7, 6)
    assert ToTensor()(picture.convert("L")).shape == (1, 7, 6)
    assert ToTensor()(picture.quantize(5)).shape == (3, 7, 6)
    assert set(np.unique(ToTensor()(picture.convert("1")).array)) <= {0, 1}
    kept = ToTensor()(np.full((2, 2), 300, np.int16))
    assert (kept.array.dtype, kept.array.max()) == (np.int16, 300)
    assert np.array_equal(Resize(7)(picture).array, Resize(7)(BYTES[0]))
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        ToTensor()(BYTES)
    with pytest.raises(TypeError, match="not list"):
        ToTensor()([1])


sides = st.integers(1, 12)


@settings(max_examples=60)
@given(sides, sides, sides, sides, st.booleans())
def test_resize_is_torchs_interpolate(h, w, height, width, antialias):
    x = np.random.default_rng(h * 97 + w).normal(size=(2, 3, h, w))
    ours = Resize((height, width), antialias=antialias)(x)
    theirs = F.interpolate(torch.from_numpy(x), (height, width), mode="bilinear", antialias=antialias)
    # in double precision; up to 12 + 12 products of magnitude below 5, and the weights' own rounding
    assert np.allclose(ours, theirs.numpy(), rtol=0, atol=1e-12)
    nearest = Resize((height, width), "nearest")(x)
    assert np.array_equal(nearest, F.interpolate(torch.from_numpy(x), (height, width), mode="nearest").numpy())


def test_resize_of_bytes_is_pillows_but_for_rounding():
    for size in ((3, 9), (14, 2), (7, 6)):
        ours = Resize(size)(BYTES[0]).astype(int)
        picture = Image.fromarray(BYTES[0].transpose(1, 2, 0)).resize(size[::-1], Image.Resampling.BILINEAR)
        # Pillow rounds to whole numbers between the two axes, too: half a step more
        assert abs(ours - np.asarray(picture).transpose(2, 0, 1)).max() <= 1
    assert Resize(14)(BYTES).shape == (5, 3, 16, 14)
    assert Resize(14)(BYTES.transpose(0, 1, 3, 2)).shape == (5, 3, 14, 16)
    constant = np.full((1, 5, 5), 255, np.uint8)
    assert (Resize(3)(constant) == 255).all()
    for bad in (0, -1, (1, 2, 3), (2, 0), 1.5):
        with pytest.raises((ValueError, TypeError)):
            Resize(bad)
    with pytest.raises(ValueError, match="interpolation"):
        Resize(3, "cubic")


@given(st.tuples(*[st.integers(0, 3)] * 4), st.sampled_from(["constant", "edge", "reflect", "symmetric"]))
def test_pad_is_torchs(padding, mode):
    left, above, right, below = padding
    x = RNG.normal(size=(2, 3, 5, 4))
    ours = Pad(padding, 2.5, mode)(x)
    if mode == "symmetric":
        theirs = np.pad(x, ((0, 0), (0, 0), (above, below), (left, right)), mode)
    else:
        name = {"edge": "replicate"}.get(mode, mode)
        theirs = F.pad(torch.from_numpy(x), (left, right, above, below), name, 2.5 if mode == "constant" else None)
    assert np.array_equal(ours, np.asarray(theirs))


def test_pad_options():
    x = np.arange(4).reshape(2, 2)
    assert Pad(1, 7)(x).tolist() == [[7] * 4, [7, 0, 1, 7], [7, 2, 3, 7], [7] * 4]
    assert Pad((0, 1))(x).shape == (4, 2)
    for bad in (dict(padding=-1), dict(padding=(1, 2, 3)), dict(padding=1, padding_mode="wrap")):
        with pytest.raises(ValueError, match="Pad"):
            Pad(**bad)
    with pytest.raises(ValueError, match="cannot reflect"):
        Pad(2, padding_mode="reflect")(x)


def test_center_crop():
    x = np.arange(35).reshape(5, 7)
    assert np.array_equal(CenterCrop(3)(x), x[1:4, 2:5])
    assert np.array_equal(CenterCrop((2, 4))(x), x[2:4, 2:6])  # 1.5 rounds to 2, as in torchvision
    small = CenterCrop((6, 4))(x)
    assert small.shape == (6, 4)
    assert np.array_equal(small[:5], x[:, 2:6])
    assert (small[5] == 0).all()


def test_random_crop_reaches_every_place_alike():
    x = np.arange(30.0).reshape(1, 5, 6)
    crop = RandomCrop((3, 4), padding=1, fill=-1, generator=Generator(1))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    places = {(r, c): padded[:, r : r + 3, c : c + 4] for r in range(5) for c in range(5)}
    counts = dict.fromkeys(places, 0)
    n = 5000
    for _ in range(n):
        y = crop(x)
        (place,) = (p for p, cut in places.items() if np.array_equal(cut, y))
        counts[place] += 1
    # five standard errors of a binomial count with p = 1/25
    assert all(abs(k - n / 25) <= 5 * math.sqrt(n * 0.04 * 0.96) for k in counts.values())
    assert RandomCrop(9, pad_if_needed=True)(x).shape == (1, 9, 9)
    with pytest.raises(ValueError, match="cannot cut 9 x 9 out of an image of 5 x 6"):
        RandomCrop(9)(x)


def test_vertical_flip():
    assert np.array_equal(RandomVerticalFlip(1.0)(BYTES), BYTES[:, :, ::-1])
    assert np.array_equal(RandomVerticalFlip(0.0)(BYTES), BYTES)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_quarter_turns_are_exact(turns, interpolation):
    x = RNG.normal(size=(2, 3, 6, 6))
    y = RandomRotation((90 * turns, 90 * turns), interpolation)(x)
    # the cosine of 90 degrees is 6e-17, times 3 pixels, times differences below 10
    assert np.allclose(y, np.rot90(x, turns, axes=(2, 3)), rtol=0, atol=0 if interpolation == "nearest" else 1e-13)
    clockwise = RandomAffine((90 * turns, 90 * turns), interpolation=interpolation)(x)
    assert np.allclose(clockwise, np.rot90(x, -turns, axes=(2, 3)), rtol=0, atol=1e-13)


@settings(max_examples=60)
@given(
    st.floats(-180, 180), st.integers(-2, 2), st.integers(-2, 2), st.floats(0.5, 2), st.floats(-40, 40),
    st.floats(-40, 40), st.integers(1, 7), st.integers(1, 7),
)  # fmt: skip
def test_affine_is_torchs_grid_sample(angle, dx, dy, scale, shear_x, shear_y, h, w):
    """torch samples at M p, with p and M p in units of half the image; here M is built from torchvision's formula."""
    from minidl.data.transforms.resample import affine

    x = np.random.default_rng(h * 8 + w).normal(size=(2, h, w))
    a, sx, sy = (math.radians(v) for v in (angle, shear_x, shear_y))
    forward = scale * np.array([
        [math.cos(a - sy) / math.cos(sy), -math.cos(a - sy) * math.tan(sx) / math.cos(sy) - math.sin(a)],
        [math.sin(a - sy) / math.cos(sy), -math.sin(a - sy) * math.tan(sx) / math.cos(sy) + math.cos(a)],
    ])  # fmt: skip
    back = np.linalg.inv(forward)
    half = np.array([w / 2, h / 2])
    theta = np.concatenate([back * half / half[:, None], (-back @ [dx, dy] / half)[:, None]], axis=1)
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 2, h, w], align_corners=False)
    theirs = F.grid_sample(torch.from_numpy(x)[None], grid, "bilinear", "zeros", align_corners=False)[0].numpy()
    ours = affine(x, angle, (dx, dy), scale, (shear_x, shear_y), "bilinear", 0)
    # places differ by some 1e-14; values by that times differences below 10 of four pixels
    assert np.allclose(ours, theirs, rtol=0, atol=1e-11)


def test_affine_options():
    x = np.arange(36.0).reshape(1, 6, 6)
    moved = RandomAffine(0, (0.5, 0.0), generator=Generator(2))
    seen = set()
    for _ in range(200):
        y = moved(x)
        (d,) = (
            d for d in range(-3, 4)
            if np.array_equal(y, RandomAffine(0)(np.roll(x, d, 2) * ((np.arange(6) - d >= 0) & (np.arange(6) - d < 6))))
        )  # fmt: skip
        seen.add(d)
    assert seen == set(range(-3, 4))
    assert (RandomRotation((45, 45), fill=9)(np.zeros((1, 5, 5), np.uint8))[0, 0, 0]) == 9
    for bad in (
        dict(degrees=-1), dict(degrees=(3, 1)), dict(degrees=0, translate=(2, 0)), dict(degrees=0, scale=(0, 1)),
        dict(degrees=0, interpolation="cubic"), dict(degrees=0, shear=-2), dict(degrees=math.inf),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="RandomAffine"):
            RandomAffine(**bad)


def test_grayscale():
    r, g, b = BYTES[:, 0].astype(np.float64), BYTES[:, 1], BYTES[:, 2]
    exact = 0.2989 * r + 0.587 * g + 0.114 * b
    grey = Grayscale()(BYTES)
    assert grey.shape == (5, 1, 7, 6)
    # integers are cut off; where the sum is whole, float32 may be just below it
    assert (np.abs(grey[:, 0] - np.floor(exact)) <= (np.abs(exact - np.rint(exact)) < 1e-4)).all()
    assert np.array_equal(Grayscale(3)(BYTES), np.repeat(grey, 3, axis=1))
    assert np.array_equal(Grayscale()(grey), grey)
    with pytest.raises(ValueError, match="1 or 3 channels"):
        Grayscale()(np.zeros((4, 2, 2)))
    with pytest.raises(ValueError, match="num_output"):
        Grayscale(2)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.7])
def test_color_jitter_by_its_formula(factor):
    x = RNG.uniform(size=(3, 4, 5))
    grey = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    for name, other in (("brightness", 0), ("contrast", grey.mean()), ("saturation", grey)):
        y = ColorJitter(**{name: (factor, factor)})(x)
        # three products and sums of numbers below 2, in double precision
        assert np.allclose(y, np.clip(factor * x + (1 - factor) * other, 0, 1), rtol=0, atol=1e-15)
    whole = ColorJitter(brightness=(factor, factor))(BYTES[0])
    assert whole.dtype == np.uint8
    assert (np.abs(whole - np.minimum(np.floor(factor * BYTES[0].astype(float)), 255)) <= 1).all()
    assert np.array_equal(ColorJitter(saturation=(0, 0))(x[:1]), x[:1])


def test_color_jitter_draws_factors_and_orders():
    x = np.full((1, 1, 1), 0.5)
    drawn = [float(ColorJitter(brightness=0.4, generator=Generator(i))(x)[0, 0, 0]) * 2 for i in range(400)]
    assert 0.6 <= min(drawn) < 0.62
    assert 1.38 < max(drawn) <= 1.4
    # the mean of 400 evenly drawn factors: five standard errors of 0.8 / sqrt(12) / 20
    assert abs(np.mean(drawn) - 1) < 5 * 0.8 / math.sqrt(12) / 20
    image = RNG.uniform(size=(3, 4, 4))
    both = [ColorJitter((1.9, 1.9), (0.3, 0.3), generator=Generator(i))(image) for i in range(20)]
    assert len({y.tobytes() for y in both}) == 2  # brightness cuts off before contrast, or after
    assert np.array_equal(ColorJitter()(image), image)
    for bad in (dict(brightness=-1), dict(contrast=(2, 1)), dict(saturation=(-1, 1))):
        with pytest.raises(ValueError, match="ColorJitter"):
            ColorJitter(**bad)


def test_random_erasing():
    x = np.ones((3, 20, 30), np.float32)
    g = Generator(0)
    shares, erased, n = [], 0, 600
    for _ in range(n):
        y = RandomErasing(0.5, (0.1, 0.3), (0.5, 2), value=(7, 8, 9), generator=g)(x)
        changed = (y != x).any(0)
        if not changed.any():
            continue
        erased += 1
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert changed.sum() == height * width
        assert (y[:, changed] == np.array([[7], [8], [9]])).all()
        shares.append(height * width / 600)
        assert 0.4 < height / width < 2.5  # within rounding of both sides
    assert abs(erased - n / 2) < 5 * math.sqrt(n) / 2  # five standard errors of fair coins
    assert 0.08 < min(shares) < 0.12
    assert 0.27 < max(shares) < 0.33
    noise = RandomErasing(1, value="random", generator=g)(x)
    assert (noise != x).any()
    assert (x == 1).all()
    assert np.array_equal(RandomErasing(1, (1, 1))(x), x)  # nothing that large fits
    for bad in (dict(p=2), dict(scale=(0.5, 0.1)), dict(ratio=(0, 1)), dict(value="noise")):
        with pytest.raises(ValueError, match="RandomErasing"):
            RandomErasing(**bad)
    with pytest.raises(ValueError, match="2 values for 3 channels"):
        RandomErasing(1, value=(1, 2))(x)


def test_random_apply_and_lambda():
    invert = RandomApply([Lambda(lambda x: 1 - x)], 0.25, Generator(1))
    drawn = sum(float(invert(np.zeros((1, 1, 1)))[0, 0, 0]) for _ in range(1000))
    assert abs(drawn - 250) < 5 * math.sqrt(1000 * 0.25 * 0.75)
    assert not invert.works_on_batches
    assert RandomApply([ToFloat()]).works_on_batches
    with pytest.raises(TypeError, match="int is no function"):
        Lambda(3)
