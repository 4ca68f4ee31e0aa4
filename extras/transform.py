"""Train with a transform of torchvision besides the crop and the flip.

    python extras/transform.py --transform rotation --model resnet18 --name rotation

All other options are those of train.py; `python train.py --help` lists them.
"""

import argparse
import sys
from pathlib import Path

import torch
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data
import train

# They get uint8 images, 0 to 255.
TRANSFORMS = {
    "brightness": v2.ColorJitter(brightness=0.2),
    "erasing": v2.RandomErasing(p=0.5),  # Zhong et al. 2017, arXiv:1708.04896
    "rotation": v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
}
# Images that share random numbers: one by one, torchvision takes too long.
GROUP = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--transform", choices=TRANSFORMS, required=True)
    args, others = parser.parse_known_args()
    transform, draw, parse = TRANSFORMS[args.transform], train.draw_epoch, train.parse_args

    def draw_and_transform(train_set, epoch, args):
        batches = draw(train_set, epoch, args)
        return [(torch.cat([transform(x) for x in images[:, None].split(GROUP)])[:, 0], labels)
                for images, labels in batches]  # fmt: skip

    def parse_args(argv):  # for config.json
        return argparse.Namespace(**vars(parse(argv)), transform=args.transform)

    # train.main() calls them by these names, so it calls ours.
    train.draw_epoch, train.parse_args = draw_and_transform, parse_args
    train.main(others)


if __name__ == "__main__":
    data.run_script(main, stopped="stopped; the same command with --resume continues the run")
