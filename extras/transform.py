"""Train with a transform of torchvision besides the crop and the flip.

    python extras/transform.py --transform rotation --model resnet18 --name rotation

All other options are those of train.py.
"""

import argparse
import sys
from pathlib import Path

import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import train

# Of uint8 images, 0 to 255.
TRANSFORMS = {
    "brightness": v2.ColorJitter(brightness=0.2),
    "erasing": v2.RandomErasing(p=0.5),  # Zhong et al. 2017, arXiv:1708.04896
    "rotation": v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
}
# Images that share random numbers: one by one, torchvision takes longer than a training step.
GROUP = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], add_help=False)
    parser.add_argument("--transform", choices=TRANSFORMS, required=True)
    args, others = parser.parse_known_args()
    transform, crop_and_flip = TRANSFORMS[args.transform], data.crop_and_flip

    def crop_flip_and_transform(images, offsets, flips, padding):
        groups = crop_and_flip(images, offsets, flips, padding)[:, None].split(GROUP)
        return torch.cat([transform(group) for group in groups])[:, 0]

    def parse_args(argv):  # for config.json
        return argparse.Namespace(**vars(train_args(argv)), transform=args.transform)

    data.crop_and_flip, train_args = crop_flip_and_transform, train.parse_args
    train.parse_args = parse_args
    train.main(others)


if __name__ == "__main__":
    data.run_script(main, stopped="stopped; the same command with --resume continues the run")
