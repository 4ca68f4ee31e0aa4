import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import DATA, ROOT
from PIL import Image, ImageDraw, ImageFilter

import data
import evaluate
from extras import predict

CKPT = ROOT / "pretrained" / "mlp.pt"


def draw_trousers(mode, background=255, colour=90, size=(300, 400)):
    """Trousers on a background, in one of Pillow's modes; their legs point downwards.

    In the modes with transparency the trousers are cut out.
    """
    image = Image.new("L" if isinstance(colour, int) else "RGB", size, background)
    shape = Image.new("L", size, 0)
    for pen, fill in ((ImageDraw.Draw(image), colour), (ImageDraw.Draw(shape), 255)):
        pen.rectangle((100, 60, 200, 120), fill=fill)
        pen.rectangle((100, 120, 140, 340), fill=fill)
        pen.rectangle((160, 120, 200, 340), fill=fill)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image).astype(np.float32) / 255)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(shape)
        return image
    if mode == "P transparent":
        palette = shape.point(lambda opacity: opacity // 255).convert("P")
        palette.putpalette([0, 0, 0, colour, colour, colour])
        palette.info["transparency"] = 0
        return palette
    return image.convert(mode, dither=Image.Dither.NONE)


def check_trousers(image):
    """The 28×28 image shows trousers: trimmed, centred, light on black."""
    assert image.shape == (28, 28) and image.dtype == torch.uint8
    inside = image > 60
    rows, columns = (inside.any(axis).nonzero().flatten() for axis in (1, 0))
    assert (rows[0], rows[-1]) == (0, 27)  # the longest side fills the image
    assert abs(int(columns[0] + columns[-1]) - 27) <= 1  # and the other is centred
    assert not inside[20, 13:15].any() and inside[20, 10] and inside[20, 17]  # two legs
    assert image[:, 0].max() < 10  # the background is black


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("RGB", "jpg"), ("RGBA", "png"), ("LA", "png"), ("P", "gif"),
     ("P transparent", "png"), ("I;16", "png"), ("F", "tif"), ("CMYK", "jpg"), ("CMYK", "tif"),
     ("1", "png"), ("LAB", "tif"), ("RGB", "webp"), ("RGB", "bmp")],
)  # fmt: skip
def test_every_mode_gives_the_same_picture(tmp_path, mode, ending):
    path = tmp_path / f"picture.{ending}"
    if mode == "LAB":  # Pillow converts from LAB, but not to it
        lab = np.full((400, 300, 3), 128, np.uint8)
        lab[:, :, 0] = np.asarray(draw_trousers("L"))
        Image.fromarray(lab, "LAB").save(path)
    else:
        draw_trousers(mode).save(path)
    check_trousers(predict.to_fashion(predict.read_photograph(path)))


def test_exif_rotation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be turned by 270 degrees
    path = tmp_path / "turned.jpg"
    draw_trousers("RGB").transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    check_trousers(predict.to_fashion(predict.read_photograph(path)))


@pytest.mark.parametrize(
    ("background", "colour"),
    [
        (20, 200),  # light on dark
        (200, 50),
        (150, 250),  # white on grey
        ((250, 0, 0), (90, 40, 40)),
        ((60, 110, 200), (255, 255, 255)),
        ((60, 110, 200), (180, 60, 40)),
        ((40, 114, 60), (150, 63, 50)),  # both have the grey value 86
    ],
)
def test_plain_backgrounds_become_black(background, colour):
    mode = "L" if isinstance(colour, int) else "RGB"
    image = predict.to_fashion(draw_trousers(mode, background, colour))
    check_trousers(image)
    assert image[image > 60].median() > 80


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P transparent"])
@pytest.mark.parametrize("colour", [255, 250, 128, 0])
def test_transparency_separates_an_article_of_any_colour(tmp_path, mode, colour):
    path = tmp_path / "cut.png"
    draw_trousers(mode, colour=colour).save(path)
    check_trousers(predict.to_fashion(predict.read_photograph(path)))


def test_opaque_and_empty_transparency():
    opaque = draw_trousers("RGB").convert("RGBA")
    check_trousers(predict.to_fashion(opaque))
    opaque.paste((0, 0, 0, 0), (0, 0, 8, 8))  # a rounded corner, as screenshots have
    check_trousers(predict.to_fashion(opaque))
    opaque.putalpha(0)
    with pytest.raises(data.UserError, match="nothing in it"):
        predict.to_fashion(opaque)


@pytest.mark.parametrize(
    "light",
    [
        lambda y, x: 0.6 + 0.4 * x,  # from one side
        lambda y, x: 0.6 + 0.2 * x + 0.2 * y,  # from a corner
        lambda y, x: 1 - 0.6 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),  # darker in the corners
    ],
)
@pytest.mark.parametrize("background", [(250, 250, 250), (240, 220, 190), (60, 110, 200)])
def test_uneven_light_and_noise_change_little(light, background):
    y, x = np.mgrid[0:1:400j, 0:1:300j]
    noise = np.random.default_rng(0).normal(0, 3, (400, 300, 3))
    even = draw_trousers("RGB", background, (90, 40, 40))
    uneven = np.asarray(even) * light(y, x)[:, :, None] + noise
    image = predict.to_fashion(Image.fromarray(uneven.clip(0, 255).astype(np.uint8)))
    check_trousers(image)
    difference = abs(image.int() - predict.to_fashion(even).int())
    assert difference.double().mean() < 12


def test_specks_change_nothing():
    photograph = draw_trousers("RGB")
    clean = predict.to_fashion(photograph)
    pen = ImageDraw.Draw(photograph)
    for x, y in ((5, 5), (290, 390), (150, 20)):
        pen.ellipse((x, y, x + 6, y + 6), fill="black")
    assert predict.to_fashion(photograph).equal(clean)


def test_article_that_touches_the_border():
    photograph = draw_trousers("RGB").crop((0, 0, 300, 330))  # the ends of the legs are cut off
    check_trousers(predict.to_fashion(photograph))


def test_enlarged_test_images_keep_their_answer(tmp_path):
    model, _ = evaluate.load_model(ROOT / "pretrained" / "resnet18-200epochs-all.pt")
    images, _ = data.load(DATA, train=False)
    images = images[:200]
    before = evaluate.predict(model, images).argmax(1)
    y, x = np.mgrid[0:1:480j, 0:1:480j]
    path = tmp_path / "picture.jpg"

    def share_kept(images, spoil):
        result = []
        for image in images:
            large = Image.fromarray(255 - image.numpy()).resize(
                (400, 400), Image.Resampling.BICUBIC
            )
            picture = Image.new("L", (480, 480), 255)
            picture.paste(large, (40, 40))
            if spoil:
                ImageDraw.Draw(picture).rectangle((466, 6, 472, 12), fill=40)  # a speck
                uneven = np.asarray(picture) * (0.6 + 0.2 * x + 0.2 * y)
                picture = Image.fromarray(uneven.astype(np.uint8))
            picture.save(path, quality=90)
            result.append(predict.to_fashion(predict.read_photograph(path)))
        after = evaluate.predict(model, torch.stack(result)).argmax(1)
        return (before[: len(images)] == after).double().mean().item()

    clean, spoilt = share_kept(images, spoil=False), share_kept(images[:100], spoil=True)
    print(f"{100 * clean:.1f} % of 200 enlarged test images keep their answer, "
          f"{100 * spoilt:.1f} % of 100 in uneven light and with a speck")  # fmt: skip
    assert clean >= 0.95 and spoilt >= 0.92


def test_bad_files_are_named_and_the_others_predicted(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw_trousers("L").save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "broken.png").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".DS_Store").write_bytes(b"hidden")
    (folder / "subfolder").mkdir()
    Image.new("L", (50, 50), 255).save(folder / "empty.png")
    Image.new("1", (15_000, 15_000)).save(folder / "huge.png")
    out = tmp_path / "figures"
    with pytest.raises(data.UserError, match="8 of 9 files were skipped"):
        predict.main(["--ckpt", str(CKPT), "--out", str(out), str(folder), "missing.png"])
    printed = capsys.readouterr()
    assert re.search(r"good\.png: Trouser [\d.]+ %, [^,]+ %, [^,]+ %\n", printed.out)
    lines = printed.err.splitlines()
    names = ("broken.png", "text.jpg", "phone.heic", "notes.txt", "subfolder", "empty.png",
             "huge.png", "missing.png")  # fmt: skip
    assert len(lines) == len(names)
    for name in names:
        assert f"{name}: skipped, " in printed.err
    assert Image.open(out / "predictions.png").width > 500


def test_damaged_pictures_are_skipped_without_a_traceback(tmp_path):
    random = np.random.default_rng(0)
    for ending in ("jpg", "png", "gif", "bmp", "tif", "webp"):
        path = tmp_path / f"a.{ending}"
        draw_trousers("RGB").filter(ImageFilter.BLUR).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for trial in range(30):
            damaged = content[: random.integers(len(content))] if trial % 2 else content.copy()
            if not trial % 2:
                start = random.integers(min(len(content), 200))
                damaged[start : start + 8] = random.integers(
                    0, 256, len(damaged[start : start + 8])
                )
            path.write_bytes(damaged.tobytes())
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    predict.to_fashion(predict.read_photograph(path))
            except data.UserError:
                pass


def test_the_first_photographs_are_drawn(tmp_path, capsys, monkeypatch):
    draw = Mock(wraps=predict.draw)  # draws, and remembers its arguments
    monkeypatch.setattr(predict, "draw", draw)
    for i in range(22):
        draw_trousers("L", size=(210, 350)).save(tmp_path / f"{i:02d}.png")
    predict.main(["--ckpt", str(CKPT), "--out", str(tmp_path / "figures"), str(tmp_path)])
    assert capsys.readouterr().out.count("Trouser") == 22
    drawn, _ = draw.call_args.args
    assert [name for name, *_ in drawn] == [f"{i:02d}.png" for i in range(20)]
    # Twenty rows of 1.8 inches with 110 pixels each.
    with Image.open(tmp_path / "figures/predictions.png") as picture:
        assert picture.height == pytest.approx(3960, abs=60)


def test_empty_folder(tmp_path):
    with pytest.raises(data.UserError, match="no photographs in the folder"):
        predict.main(["--ckpt", str(CKPT), str(tmp_path)])


def test_names_that_are_not_ascii(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("裤子 1.jpg", "a $x^2$.png")
    for name in names:
        draw_trousers("RGB").save(name)
    predict.main(["--ckpt", str(CKPT), "--out", "图 1", *names])
    printed = capsys.readouterr().out
    assert "裤子 1.jpg: Trouser" in printed and "a $x^2$.png: Trouser" in printed
    assert Path("图 1/predictions.png").exists()
    # As a script, from another folder, with an output that cannot show these characters.
    words = [sys.executable, ROOT / "extras" / "predict.py", "--ckpt", CKPT, *names, "none.jpg"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run(words, check=False, capture_output=True, env=ascii_only)
    assert result.returncode == 1  # none.jpg does not exist
    printed, errors = result.stdout.decode(), result.stderr.decode()
    assert "a $x^2$.png: Trouser" in printed and "?? 1.jpg: Trouser" in printed
    assert errors.splitlines() == [
        "none.jpg: skipped, there is no such file",
        "predict.py: 1 of 3 files were skipped",
    ]
    assert Path("figures/predictions.png").exists()


def test_a_pipe_in_a_folder_is_skipped(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.jpg")
    draw_trousers("RGB").save(tmp_path / "trousers.jpg")
    with pytest.raises(data.UserError, match="1 of 2 files were skipped"):
        predict.main(["--ckpt", str(CKPT), "--out", str(tmp_path / "figures"), str(tmp_path)])
    assert "pipe.jpg: skipped, it is not a file" in capsys.readouterr().err
