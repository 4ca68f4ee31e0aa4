import io
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import DATA, call
from torchvision.datasets import FashionMNIST
from torchvision.transforms import functional as tv

import data
import train

RAW = Path(DATA) / "FashionMNIST/raw"


def test_real_data(real):
    assert list(data.CLASSES) == FashionMNIST.classes
    images, labels = real
    assert images.shape == (60_000, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [6_000] * 10
    assert labels[:3].tolist() == [9, 0, 0]  # the set's well-known first images: boot, T-shirts
    test_images, test_labels = data.load(DATA, train=False)
    assert test_images.shape == (10_000, 28, 28)
    assert test_labels.bincount().tolist() == [1_000] * 10


def test_script_verifies_the_data():
    assert f"FashionMNIST is complete and verified in {DATA}" in call("data.py")


def test_split_is_8_to_2_and_disjoint():
    train, val = data.split_indices()
    assert (len(train), len(val)) == (48_000, 12_000)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    # Published results rest on this very split: it may never change.
    assert val[:5].tolist() == [36044, 10678, 57327, 55074, 21567]


def test_augmentation_equals_torchvisions_pixel_for_pixel(real):
    # All 81 crops, with and without a flip, of 162 real images.
    rows, columns, flips = torch.meshgrid(
        torch.arange(9), torch.arange(9), torch.tensor([0, 1]), indexing="ij"
    )
    offsets = torch.stack([rows.flatten(), columns.flatten()], 1)
    flips = flips.flatten().bool()
    images = real[0][: len(flips)]
    ours = data.preprocess(data.crop_and_flip(images, offsets, flips, padding=4))
    for image, (row, column), flip, result in zip(images, offsets, flips, ours, strict=True):
        expected = tv.to_pil_image(image)
        expected = tv.crop(tv.pad(expected, 4), int(row), int(column), 28, 28)
        expected = tv.hflip(expected) if flip else expected
        expected = tv.normalize(tv.to_tensor(expected), (0.5,), (0.5,))
        assert torch.equal(result, expected)


def augment(images, padding, flip, seed=0):
    args = SimpleNamespace(padding=padding, flip=flip, seed=seed, batch_size=100)
    batches = train.draw_epoch((images, torch.arange(len(images))), 0, args)
    augmented = torch.full_like(images, 99)
    for x, index in batches:
        augmented[index] = x
    return augmented


def draw(n, padding, flip, seed=0):
    """Offsets and flips of n images, as seen from where a white pixel is moved."""
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, 14, 8] = 255
    position = augment(images, padding, flip, seed).flatten(1).argmax(1)
    rows, columns = position // 28, position % 28
    flips = columns > 13
    columns = torch.where(flips, 27 - columns, columns)
    return torch.stack([14 + padding - rows, 8 + padding - columns], 1), flips


def test_draws_are_uniform_and_seeded():
    offsets, flips = draw(81_000, 4, 0.5)
    counts = torch.bincount(9 * offsets[:, 0] + offsets[:, 1], minlength=81).double()
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 124.8  # the 99.9 % point for 80 degrees of freedom
    assert abs(flips.double().mean() - 0.5) < 0.006  # 3.4 standard deviations
    together = (flips & (offsets[:, 0] > 4)).double().mean()
    assert abs(together - flips.double().mean() * 4 / 9) < 0.005  # flips know nothing of offsets
    assert torch.equal(offsets, draw(81_000, 4, 0.5)[0])
    assert not torch.equal(offsets, draw(81_000, 4, 0.5, seed=1)[0])


def draw_orders(n, batch_size, seed=0, epoch=0):
    """The labels of the batches of an epoch, where image i has label i."""
    args = SimpleNamespace(padding=1, flip=0.5, seed=seed, batch_size=batch_size)
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    return [y.tolist() for _, y in train.draw_epoch((images, torch.arange(n)), epoch, args)]


def test_each_seed_and_epoch_has_its_own_order():
    orders = [draw_orders(60, 60, *which)[0] for which in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert draw_orders(60, 60, 0, 1)[0] == orders[1]


def test_last_batch_below_a_quarter_is_dropped():
    for n, sizes in ((424, [100] * 4), (425, [100] * 4 + [25]), (24, [24])):
        assert [len(batch) for batch in draw_orders(n, 100)] == sizes


def test_flips_and_crops_can_be_turned_off(real):
    images = real[0][:100]
    _, flips = draw(100, 0, 0.5)
    flipped = augment(images, 0, 0.5)
    assert 30 < flips.sum() < 70
    assert torch.equal(flipped[flips], images[flips].flip(2))
    assert torch.equal(flipped[~flips], images[~flips])
    assert torch.equal(augment(images, 0, 0.0), images)


def test_crop_by_hand(real):
    image = real[0][:1]
    moved = data.crop_and_flip(image, torch.tensor([[2, 0]]), torch.tensor([False]), padding=1)
    assert torch.equal(moved[0, :-1, 1:], image[0, 1:, :-1])  # up by one, right by one
    assert not moved[0, -1].any() and not moved[0, :, 0].any()


def test_preprocess_normalises_as_torchvision_does(real, monkeypatch):
    monkeypatch.setattr(data, "MEAN", 0.3)
    monkeypatch.setattr(data, "STD", 0.2)
    images = real[0][:5]
    expected = tv.normalize(images[:, None].float() / 255, [0.3], [0.2])
    x = data.preprocess(images)
    assert x.shape == (5, 1, 28, 28) and x.dtype == torch.float32
    assert torch.allclose(x, expected, atol=1e-5)


@pytest.fixture
def copy(tmp_path):
    """A copy of the data set below a temporary folder, to be damaged."""
    shutil.copytree(RAW, tmp_path / "FashionMNIST/raw")
    return tmp_path


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "web page"])
def test_damaged_file_is_refused(copy, damage):
    path = copy / "FashionMNIST/raw/train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "altered":
        content[1000] ^= 1
    path.write_bytes(
        {"truncated": content[:-1], "altered": content, "empty": b"",
         "web page": b"<html>404</html>"}[damage]
    )  # fmt: skip
    with pytest.raises(data.UserError, match="Delete that folder") as caught:
        data.load(copy, train=True)
    assert len(str(caught.value).splitlines()) == 1 and str(path.parent) in str(caught.value)


def test_damaged_test_set_is_found_before_the_training(copy):
    path = copy / "FashionMNIST/raw/t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    options = ("--model", "mlp", "--data-dir", copy, "--runs", copy)
    message = call("train.py", *options, code=1)
    assert "not complete" in message and len(message.splitlines()) == 1
    assert not (copy / "mlp").exists()


def test_failed_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    with pytest.raises(data.UserError, match="could not be downloaded") as caught:
        data.load(tmp_path, train=True)
    assert "make data" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_users_mistakes_are_one_line_and_programming_errors_a_traceback(capsys):
    def mistake(error):
        raise error

    for error in (data.UserError("no such option"), PermissionError("may not be written")):
        with pytest.raises(SystemExit) as caught:
            data.run_script(lambda error=error: mistake(error))
        assert str(error) in caught.value.code and len(caught.value.code.splitlines()) == 1
    for error in (ValueError("too many values to unpack"), RuntimeError("out of memory")):
        with pytest.raises(type(error)):
            data.run_script(lambda error=error: mistake(error))
    assert data.last_line(ValueError("a cause:\n its reason\n")) == "its reason"
    assert data.last_line(ValueError()) == "ValueError()"


def test_scripts_run_where_a_notebook_has_replaced_the_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # it has no reconfigure()
    data.run_script(lambda: print("×"))
    assert sys.stdout.getvalue() == "×\n"


def test_file_is_replaced_not_rewritten(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.link(path, tmp_path / "old")
    data.write_file(path, b"new")
    assert path.read_bytes() == b"new" and (tmp_path / "old").read_bytes() == b"old"
