import os

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT, call
from PIL import Image, ImageDraw

import data
import evaluate
from extras import photographs


def draw_trousers(mode, size=(300, 400)):
    """Grey trousers on white, in one of Pillow's modes; their legs point downwards."""
    image = Image.new("L", size, 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((100, 60, 200, 120), fill=90)
    pen.rectangle((100, 120, 140, 340), fill=90)
    pen.rectangle((160, 120, 200, 340), fill=90)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        cut = image.convert(mode)
        cut.putalpha(image.point(lambda grey: 0 if grey == 255 else 255))
        return cut
    if mode == "P transparent":
        palette = image.point(lambda grey: 0 if grey == 255 else 1).convert("L").convert("P")
        palette.putpalette([0, 0, 0, 90, 90, 90])
        palette.info["transparency"] = 0
        return palette
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("RGB", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "gif"),
     ("P transparent", "png"), ("I;16", "png"), ("CMYK", "jpg"), ("CMYK", "tif")],
)  # fmt: skip
def test_every_mode_gives_the_same_picture(tmp_path, mode, ending):
    path = tmp_path / f"picture.{ending}"
    draw_trousers(mode).save(path)
    image = photographs.to_fashion(photographs.read_grey(path))
    assert image.shape == (28, 28) and image.dtype == torch.uint8
    inside = image > 60
    rows, columns = (inside.any(axis).nonzero().flatten() for axis in (1, 0))
    assert (rows[0], rows[-1]) == (0, 27)  # the longest side fills the image
    assert abs(int(columns[0] + columns[-1]) - 27) <= 1  # and the other is centred
    assert not inside[20, 13:15].any() and inside[20, 10] and inside[20, 17]  # two legs
    assert image[:, 0].max() < 10  # the background is black


def test_exif_rotation_is_undone(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be turned by 270 degrees
    draw_trousers("RGB").transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    upright = tmp_path / "upright.jpg"
    draw_trousers("RGB").save(upright)
    one, other = (photographs.to_fashion(photographs.read_grey(p)) for p in (path, upright))
    assert (one.int() - other.int()).abs().double().mean() < 3


def test_dark_background_is_left_and_a_grey_one_becomes_black():
    grey = np.full((100, 100), 20, np.uint8)
    grey[20:80, 40:60] = 200
    dark = photographs.to_fashion(grey)
    assert dark[14, 14] > 150 and dark[14, 0] == 0
    grey = np.full((100, 100), 200, np.uint8)
    grey[20:80, 40:60] = 50
    light = photographs.to_fashion(grey)
    assert light[14, 14] > 150 and light[14, 0] == 0


def test_enlarged_test_images_keep_their_answer(tmp_path):
    model, _ = evaluate.load_checkpoint(ROOT / "pretrained" / "resnet18.pt")
    images, _ = data.load(DATA, train=False)
    images = images[:200]
    back = []
    for i, image in enumerate(images):
        large = Image.fromarray(255 - image.numpy()).resize((400, 400), Image.Resampling.BICUBIC)
        picture = Image.new("L", (480, 480), 255)
        picture.paste(large, (40, 40))
        path = tmp_path / f"{i}.jpg"
        picture.save(path, quality=90)
        back.append(photographs.to_fashion(photographs.read_grey(path)))
    before, after = (evaluate.predict(model, x).argmax(1) for x in (images, torch.stack(back)))
    kept = (before == after).double().mean().item()
    print(f"{100 * kept:.1f} % of 200 enlarged test images keep their answer")
    assert kept >= 0.9


def test_bad_files_are_named_and_the_others_judged(mlp_run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw_trousers("L").save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "broken.png").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("not a picture")
    Image.new("L", (50, 50), 255).save(folder / "empty.png")
    Image.new("1", (15_000, 15_000)).save(folder / "huge.png")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        ckpt = mlp_run / "best.pt"
        said = call("evaluate.py", "--ckpt", ckpt, "--images", folder, "missing.png", code=1)
    finally:
        os.chdir(before)
    assert "good.png: Trouser" in said
    for name in ("broken.png", "text.jpg", "empty.png", "huge.png", "missing.png"):
        assert f"{name}: skipped" in said
    assert "5 of the photographs" in said
    assert Image.open(tmp_path / "photographs.png").size[0] > 500
