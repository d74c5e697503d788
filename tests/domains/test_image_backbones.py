"""Networks from images to vectors: sizes as published, any resolution, words where a library is missing."""

import sys
import types

import pytest
import torch
from torch import nn

from anyjepa.core.errors import UserError
from anyjepa.domains.image_backbones import Convolutional, Timm, VisionTransformer, check_backbone
from anyjepa.domains.image_patches import ImagePatches

COLOUR = ([120.0] * 3, [60.0] * 3)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# torchvision's counts without the classifier
@pytest.mark.parametrize(
    ("name", "parameters", "width"),
    [("resnet-18", 11_176_512, 512), ("resnet-50", 23_508_032, 2048), ("convnext-tiny", 27_820_128, 768)],
)
def test_convolutional_networks_have_the_published_sizes(name, parameters, width):
    network = Convolutional(name, *COLOUR).eval()
    assert count(network) == parameters
    batch = {"image": torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)}
    with torch.inference_mode():
        vectors, tokens = network(batch), network.tokens(batch)
    assert vectors.shape == (2, width) == (2, network.width)
    assert tokens.values.shape == (2, 6, width)
    assert tokens.coordinates[0].tolist() == [[r, c] for r in range(2) for c in range(3)]
    if name.startswith("resnet"):
        assert torch.allclose(tokens.values.mean(1), vectors, atol=1e-5)


def test_small_images_keep_their_places():
    network = Convolutional("resnet-18", [0.0], [1.0], small=True).eval()
    with torch.inference_mode():
        assert network.tokens({"image": torch.zeros(1, 1, 32, 32)}).values.shape == (1, 16, 512)
    with pytest.raises(UserError, match="ResNets"):
        Convolutional("convnext-tiny", *COLOUR, small=True)


def test_pixels_are_normalised_by_the_statistics_given():
    network = Convolutional("resnet-18", [10.0], [2.0]).eval()
    plain = Convolutional("resnet-18", [0.0], [1.0]).eval()
    plain.network.load_state_dict(network.network.state_dict())
    x = torch.randint(0, 20, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.allclose(network({"image": x}), plain({"image": (x.float() - 10) / 2}))


def test_patches_of_another_size_span_the_same_coordinates():
    patches = ImagePatches((16, 24), 4, 1, 8, [0.0], [1.0])
    whole = patches({"image": torch.zeros(1, 1, 16, 24)}).coordinates
    assert torch.equal(whole, patches.coordinates)
    half = patches({"image": torch.zeros(1, 1, 8, 12)}).coordinates[0]
    assert half[0].tolist() == [0.5, 0.5]
    assert half[-1].tolist() == [2.5, 4.5]
    # patches of a larger image lie symmetrically too
    assert torch.allclose(patches({"image": torch.zeros(1, 1, 32, 24)}).coordinates.mean(1), whole.mean(1))


def test_the_transformer_takes_global_and_local_views_and_has_a_head():
    network = VisionTransformer((16, 16), 4, 3, 24, 2, 3, *COLOUR, head=10, drop_path=0.1)
    for side in (16, 8):
        assert network({"image": torch.zeros(2, 3, side, side)}).shape == (2, 10)
    assert network.tokens({"image": torch.zeros(2, 3, 8, 8)}).values.shape == (2, 4, 24)
    assert [
        block.drop.__getitem__(1).rate for block in network.encoder.blocks if block.drop
    ] == pytest.approx([0.1])


def test_an_unknown_backbone_names_its_nearest():
    check_backbone("timm:whatever")
    with pytest.raises(UserError, match="Did you mean 'resnet-18'"):
        check_backbone("resnet18")


@pytest.mark.parametrize("module", ["timm", "transformers"])
def test_a_missing_library_names_its_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'anyjepa\["):
        Timm("resnet18", *COLOUR) if module == "timm" else Convolutional("resnet-18", *COLOUR)


class TimmLike(nn.Module):
    """What timm's networks offer, for the two kinds of feature maps that they have."""

    num_features = 4

    def __init__(self, transformer, channels):
        super().__init__()
        self.num_prefix_tokens = 1 if transformer else 0
        self.transformer, self.project = transformer, nn.Conv2d(channels, 4, 2, 2)

    def forward_features(self, x):
        x = self.project(x)
        return torch.cat([x.new_zeros(len(x), 1, 4), x.flatten(2).mT], 1) if self.transformer else x

    def forward(self, x):
        x = self.forward_features(x)
        return x[:, 0] if self.transformer else x.mean((2, 3))


def test_timm_is_asked_for_random_weights_and_any_size(monkeypatch):
    asked = []

    def create_model(name, **options):
        asked.append(options)
        if name == "resnet18" and "dynamic_img_size" in options:
            raise TypeError("an option that only transformers have")
        return TimmLike(name != "resnet18", options["in_chans"])

    timm = types.ModuleType("timm")
    timm.list_models, timm.create_model = lambda: ["resnet18", "vit_tiny"], create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    batch = {"image": torch.zeros(2, 3, 4, 6)}
    convolutional, transformer = Timm("resnet18", *COLOUR), Timm("vit_tiny", *COLOUR, drop_path=0.2)
    assert not any(options["pretrained"] or options["num_classes"] for options in asked)
    assert asked[-1]["dynamic_img_size"] and asked[-1]["drop_path_rate"] == 0.2
    assert convolutional(batch).shape == transformer(batch).shape == (2, 4)
    assert convolutional.tokens(batch).coordinates[0, -1].tolist() == [1, 2]
    assert transformer.tokens(batch).values.shape == (2, 6, 4)
    with pytest.raises(UserError, match="Did you mean 'vit_tiny'"):
        Timm("vit_tinyy", *COLOUR)
