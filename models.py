"""The three networks: a small MLP, ResNet18 and ResNet34.

They follow a course report that reached 85.1 %, 95.0 % and 94.9 % with them (see README.md). Each
takes a float batch B×1×28×28 and returns logits B×10. The ResNets are those of He et al. 2016
("Deep Residual Learning for Image Recognition", arXiv:1512.03385, table 1), adapted to small
greyscale images: one input channel, a first convolution of 3×3 with stride 1 instead of 7×7 with
stride 2, no max-pooling, and dropout before the last linear layer.

To add a network, write a class and a line in ``MODELS``, such as
``"cnn": lambda width, dropout: CNN(),``, and train it with ``--model cnn``.
"""

import torch
import torch.nn.functional as F
from torch import nn


class MLP(nn.Module):
    """784 → 128 → 10 with one ReLU: 784·128 + 128 + 128·10 + 10 = 101,770 parameters."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = x.flatten(1)  # B×1×28×28 → B×784
        x = F.relu(self.fc1(x))  # B×128
        return self.fc2(x)  # B×10


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: He et al. 2016, figure 5 (left).

    The shortcut adds the input to the output, so that gradients also reach early layers. It is the
    identity, or a 1×1 convolution where the number of channels or the resolution changes.
    BatchNorm subtracts each channel's mean over all pixels of the batch and divides by the standard
    deviation, then scales and shifts by two learned numbers; in evaluation mode it uses running
    averages.
    """

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        # The convolutions need no bias: the BatchNorm after each of them has one.
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A 3×3 convolution, four stages of BasicBlocks, global average pooling, one linear layer.

    The stages are ``layer1`` to ``layer4``, as in torchvision; 2 to 4 halve the resolution, rounded
    up: 28, 14, 7, 4. The shapes in the comments are those of width 64.

    Args:
        num_blocks: blocks in each of the four stages, (2, 2, 2, 2) for ResNet18.
        width: channels of the first stage; each later stage has twice as many.
        dropout: probability of dropping a feature before the last linear layer.
    """

    def __init__(self, num_blocks, width, dropout):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(width, width, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(width, 2 * width, num_blocks[1], stride=2)
        self.layer3 = self._make_layer(2 * width, 4 * width, num_blocks[2], stride=2)
        self.layer4 = self._make_layer(4 * width, 8 * width, num_blocks[3], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, 10)

    @staticmethod
    def _make_layer(in_channels, out_channels, num_blocks, stride):
        blocks = [BasicBlock(in_channels, out_channels, stride)]
        blocks += [BasicBlock(out_channels, out_channels) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def features(self, x):
        """Return the last feature maps, B×512×4×4 (extras/explain.py shows them)."""
        x = F.relu(self.bn1(self.conv1(x)))  # B×64×28×28
        x = self.layer1(x)  # B×64×28×28
        x = self.layer2(x)  # B×128×14×14
        x = self.layer3(x)  # B×256×7×7
        return self.layer4(x)  # B×512×4×4

    def forward(self, x):
        x = self.features(x).mean(dim=(2, 3))  # global average pooling: B×512
        return self.fc(self.dropout(x))  # B×10


# How to build each network. Only the ResNets use width and dropout.
MODELS = {
    "mlp": lambda width, dropout: MLP(),
    "resnet18": lambda width, dropout: ResNet((2, 2, 2, 2), width, dropout),
    "resnet34": lambda width, dropout: ResNet((3, 4, 6, 3), width, dropout),
}


def build_model(name, width=64, dropout=0.3):
    """Return a newly initialised network.

    Args:
        name: a key of ``MODELS``.
        width: channels of a ResNet's first stage (64 in the report).
        dropout: dropout probability of a ResNet (0.3 in the report, 0 in our recipe).
    """
    # channels_last stores the channels of a pixel side by side, which makes convolutions faster.
    # Shapes remain the same, PyTorch converts the input, and an MLP, without kernels, is unchanged.
    return MODELS[name](width, dropout).to(memory_format=torch.channels_last)


def count_parameters(model):
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())
