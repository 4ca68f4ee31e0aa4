import pytest
import torch
from torch import nn

import data
from models import BasicBlock, build_model, count_parameters


@pytest.mark.parametrize(
    ("name", "parameters"), [("mlp", 101_770), ("resnet18", 11_172_810), ("resnet34", 21_280_970)]
)
def test_parameter_count_and_output_shape(name, parameters):
    model = build_model(name).eval()
    assert count_parameters(model) == parameters
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_stage_shapes_are_those_of_the_report(name):
    model, shapes = build_model(name).eval(), {}
    for stage in ("conv1", "layer1", "layer2", "layer3", "layer4", "fc"):
        getattr(model, stage).register_forward_hook(
            lambda _, __, out, stage=stage: shapes.update({stage: tuple(out.shape[1:])})
        )
    model(torch.zeros(1, 1, 28, 28))
    assert shapes == {
        "conv1": (64, 28, 28),
        "layer1": (64, 28, 28),
        "layer2": (128, 14, 14),
        "layer3": (256, 7, 7),
        "layer4": (512, 4, 4),
        "fc": (10,),
    }


def test_depth():
    # ResNet-N has N layers with weights on the main path: 3×3 convolutions and the last one.
    for name, depth in (("resnet18", 18), ("resnet34", 34)):
        modules = build_model(name).modules()
        convolutions = [m for m in modules if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        assert len(convolutions) + 1 == depth


def test_shortcut_is_the_identity_where_shapes_agree():
    block = BasicBlock(8, 8).eval()
    nn.init.zeros_(block.conv2.weight)  # now the residual branch adds nothing
    x = torch.rand(2, 8, 7, 7)
    assert torch.equal(block(x), x)
    assert BasicBlock(8, 16, stride=2)(x).shape == (2, 16, 4, 4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_dropout_only_while_training(name):
    model, dropped = build_model(name, width=8), []
    assert model.fc.in_features == 8 * 8
    model.dropout.register_forward_hook(
        lambda _, inputs, out: dropped.append((out == 0)[inputs[0] != 0].float().mean().item())
    )
    x = torch.rand(64, 1, 28, 28)
    model.train()(x)
    model.eval()(x)
    assert 0.25 < dropped[0] < 0.35
    assert dropped[1] == 0


def test_convolutions_are_channels_last():
    weight = build_model("resnet18").layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["mlp", "resnet18"])
def test_can_memorise_random_labels_of_real_images(name, real):
    torch.manual_seed(0)
    model = build_model(name, width=8, dropout=0.0)
    x, y = data.preprocess(real[0][:64]), torch.randint(0, 10, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).all()
