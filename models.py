"""The three classifiers of the report: a one-hidden-layer MLP, ResNet18 and ResNet34.

All of them take a float batch B×1×28×28 and return logits B×10. The ResNets are those of
He et al. 2016 ("Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 3 and
table 1), changed for small grey images as the report describes: a 3×3 stride-1 first convolution
instead of the 7×7 stride-2 one, no max-pooling, one input channel, and dropout before the head.
"""

import torch
import torch.nn.functional as F
from torch import nn

MODELS = ("mlp", "resnet18", "resnet34")


class MLP(nn.Module):
    """784 → 128 → 10 with one ReLU: 784·128 + 128 + 128·10 + 10 = 101,770 parameters."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.fc1 = nn.Linear(28 * 28, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x):
        x = x.flatten(1)  # B×1×28×28 → B×784
        x = F.relu(self.fc1(x))  # B×128
        return self.fc2(x)  # B×10


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution, equal to the library's, that trains faster on a CPU where maps are tiny.

    PyTorch's convolutions for the CPU (oneDNN) work on rows of pixels, and starve on 2×2 maps. The
    same arithmetic as one matrix product of all 3×3 patches (Chetlur et al. 2014, arXiv:1410.0759,
    section 3) is faster there if the channels are many.
    """

    def forward(self, x):
        stride, size = self.stride[0], (x.shape[2] - 1) // self.stride[0] + 1
        tiny = self.out_channels >= 256 and size <= 2 and x.shape[2] == x.shape[3]
        if not (tiny and self.training and x.device.type == "cpu"):
            return super().forward(x)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # B×(H+2)×(W+2)×C
        taps = [slice(i, i + stride * (size - 1) + 1, stride) for i in range(3)]
        patches = torch.cat([x[:, rows, columns] for rows in taps for columns in taps], 3)
        kernels = self.weight.permute(0, 2, 3, 1).flatten(1)  # out_channels×9C
        return F.linear(patches, kernels).permute(0, 3, 1, 2)  # patches: B×size×size×9C


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: He et al. 2016, figure 5 (left).

    Where the block changes the number of channels or the resolution, the shortcut is a 1×1
    convolution (their option B); elsewhere it is the identity.
    """

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        # No biases: the BatchNorm behind each convolution has its own.
        self.conv1 = Conv3x3(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels, 3, padding=1, bias=False)
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
    """Four stages of BasicBlocks behind a 3×3 stem; only stages 2 to 4 halve the resolution.

    Args:
        num_blocks: blocks in each of the four stages, (2, 2, 2, 2) for ResNet18.
        width: channels of the first stage; each later stage has twice as many.
        dropout: probability of dropping one of the features in front of the head.
        num_classes: number of logits.
    """

    def __init__(self, num_blocks, width=64, dropout=0.3, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(width, 1 * width, num_blocks[0], stride=1)
        self.layer2 = self._make_layer(1 * width, 2 * width, num_blocks[1], stride=2)
        self.layer3 = self._make_layer(2 * width, 4 * width, num_blocks[2], stride=2)
        self.layer4 = self._make_layer(4 * width, 8 * width, num_blocks[3], stride=2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8 * width, num_classes)

    @staticmethod
    def _make_layer(in_channels, out_channels, num_blocks, stride):
        blocks = [BasicBlock(in_channels, out_channels, stride)]
        blocks += [BasicBlock(out_channels, out_channels) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def features(self, x):
        """The last feature maps, B×512×4×4 for a B×1×28×28 batch at width 64."""
        x = F.relu(self.bn1(self.conv1(x)))  # B×64×28×28
        x = self.layer1(x)  # B×64×28×28
        x = self.layer2(x)  # B×128×14×14
        x = self.layer3(x)  # B×256×7×7
        return self.layer4(x)  # B×512×4×4

    def forward(self, x):
        x = self.features(x).mean(dim=(2, 3))  # global average pooling: B×512
        return self.fc(self.dropout(x))  # B×10


def build_model(name, width=64, dropout=0.3):
    """Return a freshly initialised model by its name.

    Args:
        name: one of ``MODELS``.
        width: channels of a ResNet's first stage (64 in the report); the MLP has none.
        dropout: a ResNet's dropout probability (0.3 in the report); the MLP has none.

    Raises:
        ValueError: the name is not one of ``MODELS``.
    """
    if name == "mlp":
        return MLP()
    if name == "resnet18":
        model = ResNet((2, 2, 2, 2), width, dropout)
    elif name == "resnet34":
        model = ResNet((3, 4, 6, 3), width, dropout)
    else:
        raise ValueError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    # The convolutions of every backend are at least as fast with the channels innermost in memory.
    return model.to(memory_format=torch.channels_last)


def count_parameters(model):
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
