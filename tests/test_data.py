import gzip
import http.server
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import DATA, ROOT, call
from torchvision.datasets import FashionMNIST
from torchvision.transforms import functional as tv

import data

RAW = data.raw_folder(DATA)


def test_real_data(real):
    assert list(data.CLASSES) == FashionMNIST.classes
    images, labels = real
    assert images.shape == (60_000, 28, 28) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [6_000] * 10
    assert labels[:3].tolist() == [9, 0, 0]  # the set's well-known first images: boot, T-shirts
    test_images, test_labels = data.load(DATA, train=False)
    assert test_images.shape == (10_000, 28, 28)
    assert test_labels.bincount().tolist() == [1_000] * 10


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


def test_draws_are_uniform_and_seeded():
    draw = lambda seed: data.draw_crops(81_000, 4, 0.5, torch.Generator().manual_seed(seed))  # noqa: E731
    offsets, flips = draw(0)
    counts = torch.bincount(9 * offsets[:, 0] + offsets[:, 1], minlength=81).double()
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 124.8  # the 99.9 % point for 80 degrees of freedom
    assert abs(flips.double().mean() - 0.5) < 0.006  # 3.4 standard deviations
    together = (flips & (offsets[:, 0] > 4)).double().mean()
    assert abs(together - flips.double().mean() * 4 / 9) < 0.005  # flips know nothing of offsets
    assert torch.equal(offsets, draw(0)[0]) and not torch.equal(offsets, draw(1)[0])


def test_flips_and_crops_can_be_turned_off(real):
    images = real[0][:100]
    generator = torch.Generator().manual_seed(0)
    offsets, flips = data.draw_crops(100, 0, 0.5, generator)
    flipped = data.crop_and_flip(images, offsets, flips, 0)
    assert 30 < flips.sum() < 70
    assert torch.equal(flipped[flips], images[flips].flip(2))
    assert torch.equal(flipped[~flips], images[~flips])
    offsets, flips = data.draw_crops(100, 0, 0.0, generator)
    assert torch.equal(data.crop_and_flip(images, offsets, flips, 0), images)


def test_example_of_the_docstring(real):
    image = real[0][:1]
    moved = data.crop_and_flip(image, torch.tensor([[2, 0]]), torch.tensor([False]), padding=1)
    assert torch.equal(moved[0, :-1, 1:], image[0, 1:, :-1])  # up by one, right by one
    assert not moved[0, -1].any() and not moved[0, :, 0].any()


def test_preprocess_resizes_as_torchvision_does(real):
    images = real[0][:5]
    small = data.preprocess(images, 16)
    expected = tv.resize(data.preprocess(images), 16, antialias=True)
    assert small.shape == (5, 1, 16, 16) and torch.allclose(small, expected, atol=1e-5)
    other = data.preprocess(images, mean=0.3, std=0.2)
    assert torch.allclose(other, (data.preprocess(images) / 2 + 0.5 - 0.3) / 0.2, atol=1e-5)


@pytest.fixture
def copy(tmp_path):
    """A copy of the data set below a temporary folder, to be damaged."""
    shutil.copytree(RAW, data.raw_folder(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "damage",
    ["truncated", "altered", "empty", "folder", "pipe", "half a gzip", "web page", "noise"],
)
def test_damaged_file_is_named_and_refused(copy, damage):
    path = data.raw_folder(copy) / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    packed = bytearray(gzip.compress(content, 1))
    path.unlink()
    if damage in ("half a gzip", "web page", "noise"):
        path = path.with_name(path.name + ".gz")
    if damage == "altered":
        content[1000] ^= 1
    if damage == "noise":  # within the compressed data, which zlib finds in many ways
        packed[500:1500] = random.Random(0).randbytes(1000)
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(
            {"truncated": content[:-1], "altered": content, "empty": b"",
             "half a gzip": packed[: len(packed) // 2], "web page": b"<html>404</html>",
             "noise": packed}[damage]
        )  # fmt: skip
    with pytest.raises(data.UserError, match=path.name):
        data.load(copy, train=True)


def test_damaged_test_set_is_found_before_the_training(copy):
    path = data.raw_folder(copy) / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    options = ("--model", "mlp", "--data-dir", copy, "--runs", copy)
    message = call("train.py", *options, code=1)
    assert path.name in message and "delete it" in message and len(message.splitlines()) == 1
    assert not (copy / "mlp").exists()


def test_gzipped_files_are_read_as_they_are_distributed(copy):
    for path in data.raw_folder(copy).iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    assert torch.equal(data.load(copy, train=False)[0], data.load(DATA, train=False)[0])


@pytest.fixture
def stalling_mirror(monkeypatch):
    """A real web server that sends the first half of every file, then waits or hangs up."""
    release = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 500_000)
            self.wfile.flush()
            release.wait(30)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", release
    release.set()
    server.shutdown()


def test_failed_download_leaves_nothing_and_says_what_to_do(
    stalling_mirror, monkeypatch, tmp_path, capsys
):
    url, release = stalling_mirror
    release.set()  # the server hangs up in the middle of the first file
    monkeypatch.setattr(FashionMNIST, "mirrors", [url])
    with pytest.raises(data.UserError, match="could not be downloaded") as caught:
        data.load(tmp_path, train=True)
    assert all(f"{name}.gz" in str(caught.value) for name in data.MD5)
    assert str(data.raw_folder(tmp_path)) in str(caught.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_killed_download_leaves_nothing_that_is_trusted(stalling_mirror, tmp_path):
    url, _ = stalling_mirror
    code = (
        f"import data, torchvision; torchvision.datasets.FashionMNIST.mirrors = ['{url}']; "
        f"data.download({str(tmp_path)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list(Path(tmp_path).rglob("*.gz*")) and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(Path(tmp_path).rglob("*.gz*")), "the download had not begun"
    assert not data.all_present(tmp_path, data.MD5)
    assert not list(data.raw_folder(tmp_path).iterdir())


def test_a_file_of_another_kind_is_not_overwritten(tmp_path):
    path = tmp_path / "log.csv"
    data.write_csv(path, [{"val_loss": 1}])
    data.write_csv(path, [{"val_loss": 2}])
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(data.UserError, match=r"log\.csv was not written by this script"):
        data.write_csv(path, [{"val_loss": 3}])
    assert path.read_text(encoding="utf-8") == "my notes" and len(list(tmp_path.iterdir())) == 1


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
